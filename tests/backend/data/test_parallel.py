import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import distributed
import pytest
from jobs_to_do import die_at_seven, note_slowly, raise_at_seven, square

from backend.data.parallel import WorkerDiedError, pool_size, run_on_dask, run_processes
from backend.errors import ErrorCode, SamMed3DError


def answers(found: list[tuple[int, int | WorkerDiedError]]) -> dict[int, int | None]:
    return {job: None if isinstance(result, WorkerDiedError) else result for job, result in found}


def test_each_job_is_done_once() -> None:
    found = list(run_processes(square, range(20), 2))
    assert len(found) == 20
    assert answers(found) == {number: number * number for number in range(20)}
    assert list(run_processes(square, [], 2)) == []


def test_a_pool_is_no_larger_than_windows_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, expected in (("linux", 128), ("win32", 61)):
        monkeypatch.setattr(sys, "platform", platform)
        assert (pool_size(128), pool_size(4)) == (expected, 4)


def test_a_worker_that_dies_takes_only_its_own_job_with_it() -> None:
    found = list(run_processes(die_at_seven, range(12), 2))
    assert len(found) == 12
    assert answers(found) == {number: None if number == 7 else number * number for number in range(12)}


def test_what_a_job_raises_ends_the_run() -> None:
    with pytest.raises(LookupError):
        list(run_processes(raise_at_seven, range(1000), 2))


def test_when_nobody_waits_any_more_nothing_is_still_being_written(tmp_path: Path) -> None:
    found = run_processes(note_slowly, [str(tmp_path / str(number)) for number in range(20)], 2)
    next(found)
    found.close()
    there = set(tmp_path.iterdir())
    time.sleep(1.5)
    assert set(tmp_path.iterdir()) == there
    assert len(there) < 10


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = f"""
from jobs_to_do import note_and_sleep
from backend.data.parallel import run_processes
if __name__ == "__main__":
    list(run_processes(note_and_sleep, [{str(tmp_path)!r}] * 2, 2))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).resolve().parents[3])])
    parent = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.DEVNULL
    )
    started = wait_for(lambda: [path for path in tmp_path.iterdir() if path.name.isdigit()], 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_for(lambda: [path for path in started if not running(int(path.name))], 2) == started


def wait_for(look, count: int) -> list[Path]:
    for _ in range(600):
        found: list[Path] = look()
        if len(found) >= count:
            return found
        time.sleep(0.1)
    pytest.fail("it does not come")


def running(pid: int) -> bool:
    try:
        # An ended process without a parent to collect it is a zombie, which is as good as gone.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_dask_does_jobs_in_other_processes_and_survives_one_that_dies() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        found = list(run_on_dask(die_at_seven, range(12), cluster.scheduler_address))
    assert len(found) == 12
    assert answers(found) == {number: None if number == 7 else number * number for number in range(12)}


def test_an_address_without_a_scheduler_is_refused() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(SamMed3DError, match=r"127\.0\.0\.1:9") as caught,
    ):
        list(run_on_dask(square, range(2), "tcp://127.0.0.1:9"))
    assert caught.value.code == ErrorCode.CONFIG_INVALID


def test_without_distributed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SamMed3DError, match=r"napari-samed3d\[train\]"):
        list(run_on_dask(square, range(2), "tcp://127.0.0.1:9"))
