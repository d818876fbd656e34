"""Runs on several ranks: the same gradient whatever their number, and one end for all of them."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_run
import torch

import backend.training.launch
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.training.launch import _device, _local_ranks, _wait, launch
from backend.training.state import Checkpoints


@pytest.fixture(autouse=True)
def _quick_start(fork_server: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend.training.launch, "process_context", lambda: get_context("forkserver"))
    yield
    tiny_run.kill_leftovers()


def state(out: Path) -> dict[str, Any]:
    loaded = Checkpoints(out / "checkpoints", keep=3).load_newest()
    assert loaded is not None
    return loaded


def go(wanted: tiny_run.TinyConfig) -> None:
    if wanted.run.ranks == 1:
        tiny_run.train(wanted)  # in a process of its own, which has imported everything
    else:
        launch(wanted)


def test_any_number_of_ranks_learns_the_same(tmp_path: Path) -> None:
    ends = []
    for ranks in (1, 2, 3):  # windows of 5 and 2 samples: of the last one, the third rank has none
        folder = tmp_path / str(ranks)
        folder.mkdir()
        wanted = tiny_run.config(
            folder / "run",
            run={"ranks": ranks, "epochs": 1, "validate_every": 1},
            data={"samples_per_epoch": 7},
            batch={"samples_per_step": 5, "micro_batch": 2},
            optimizer={"clip_norm": None},
        )
        go(wanted)
        ends.append((tiny_run.steps(folder / "run"), state(folder / "run")))
    (steps, one), *others = ends
    for other_steps, other in others:
        for step, other_step in zip(steps, other_steps, strict=True):
            for name in ("loss", "grad_norm", "dice"):
                assert other_step[name] == pytest.approx(step[name], rel=1e-5)
        assert other["counters"]["best"] == pytest.approx(one["counters"]["best"], rel=1e-3)
        for name, first in one["learner"]["optimizer"]["state"].items():  # the mean gradient, before Adam divides it
            second = other["learner"]["optimizer"]["state"][name]
            torch.testing.assert_close(second["exp_avg"], first["exp_avg"], rtol=1e-3, atol=1e-7)


def test_resumed_on_other_numbers_of_ranks_sees_each_sample_once(tmp_path: Path) -> None:
    def wanted(ranks: int) -> tiny_run.TinyConfig:
        data = {"samples_per_epoch": 24}
        return tiny_run.config(tmp_path / "run", run={"ranks": ranks}, data=data, batch={"samples_per_step": 4})

    for ranks, index in ((2, 3), (1, 12)):
        (tmp_path / "trouble").write_text(f"terminate 0 {index}")
        go(wanted(ranks))
        assert 0 < state(tmp_path / "run")["counters"]["position"] < 24
    (tmp_path / "trouble").unlink()
    launch(wanted(2))
    read = (tmp_path / "read").read_text().splitlines()
    assert sorted(read) == sorted(f"{epoch} {index}" for epoch in range(2) for index in range(24))
    assert [line["step"] for line in tiny_run.steps(tmp_path / "run")] == list(range(1, 13))


def test_nan_on_one_rank_is_skipped_on_all(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("nan 0 3")
    launch(tiny_run.config(tmp_path / "run", run={"ranks": 2}))
    assert [line["updated"] for line in tiny_run.steps(tmp_path / "run")].count(False) == 1
    assert all(tensor.isfinite().all() for tensor in state(tmp_path / "run")["learner"]["model"].values())


@pytest.mark.parametrize(
    ("what", "code", "message", "seconds"),
    [
        ("kill", ErrorCode.TRAINING_RANK, "was ended by the signal SIGKILL", 15),
        ("silent", ErrorCode.TRAINING_RANK, "was ended by exit status 1", 15),
        ("hang", ErrorCode.TRAINING_RANK, "lost touch with another rank", 3 + 45),
        ("corrupt", ErrorCode.DATA_CORRUPT, "masks/7.b2nd is damaged.", 15),
    ],
)
def test_failure_of_one_rank_ends_all(what: str, code: ErrorCode, message: str, seconds: float, tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text(f"{what} 0 3")
    begun = []

    def watch() -> None:
        while not (tmp_path / "read").exists() or "0 3\n" not in (tmp_path / "read").read_text():
            time.sleep(0.02)
        begun.append(time.monotonic())

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(SamMed3DError, match=message) as caught:
        launch(tiny_run.config(tmp_path / "run", run={"ranks": 2, "timeout_s": 3.0 if what == "hang" else 60.0}))
    assert time.monotonic() - begun[0] < seconds
    assert caught.value.code is code
    (tmp_path / "trouble").unlink()
    launch(tiny_run.config(tmp_path / "run", run={"ranks": 2}))  # nothing is left that stands in the way


def test_defect_of_one_rank_is_shown_once_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("defect 0 3")
    with pytest.raises(RuntimeError, match=r"Rank \d failed:") as caught:
        launch(tiny_run.config(tmp_path / "run", run={"ranks": 2}))
    assert str(caught.value).count("Traceback") == 1
    assert "ZeroDivisionError" in str(caught.value)


def test_a_report_longer_than_a_pipe_is_told(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("verbose 0 3")
    with pytest.raises(RuntimeError, match=r"Rank \d failed:") as caught:
        launch(tiny_run.config(tmp_path / "run", run={"ranks": 2, "timeout_s": 20.0}))
    assert str(caught.value).rstrip().endswith("and its end")


def test_signal_to_the_launcher_is_answered_and_stops_all_ranks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = tiny_run.config(tmp_path / "run", run={"ranks": 2, "epochs": 1000})

    def interrupt() -> None:
        while not (tmp_path / "read").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    launch(wanted)
    assert 0 < state(tmp_path / "run")["counters"]["step"] == len(tiny_run.steps(tmp_path / "run")) < 4000
    assert capfd.readouterr().err.count("stopping") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_before_the_ranks_listen_is_no_error(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_at_once(processes: list[Any]) -> set[int]:
        for process in (*processes, psutil.Process()) if number == signal.SIGINT else (psutil.Process(),):
            os.kill(process.pid, number)  # Ctrl-C goes to all
        return _wait(processes)

    monkeypatch.setattr(backend.training.launch, "_wait", asked_at_once)
    launch(tiny_run.config(tmp_path / "run", run={"ranks": 2}))
    monkeypatch.undo()
    assert not (tmp_path / "read").exists()
    launch(tiny_run.config(tmp_path / "run", run={"ranks": 2}))
    assert len(tiny_run.steps(tmp_path / "run")) == 8


@pytest.mark.slow
def test_ranks_save_and_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    command = tiny_run.start(tiny_run.config(tmp_path / "run", run={"ranks": 2, "epochs": 1000}))
    while tiny_run.last_step(tmp_path / "run") < 2:
        assert command.process.is_alive(), command.output()
        time.sleep(0.05)
    family = command.family()
    assert len(family) >= 2
    command.process.kill()
    assert tiny_run.all_end(family, 15)
    assert state(tmp_path / "run")["counters"]["step"] == tiny_run.last_step(tmp_path / "run") > 1


def test_joins_the_ranks_of_torchrun_and_leaves_with_them(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def member(rank: int, folder: Path) -> tiny_run.Command:
        folder.mkdir(exist_ok=True)
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        wanted = tiny_run.config(tmp_path / "data" / "run", run={"timeout_s": 5.0})
        return tiny_run.start(wanted, environment, folder)

    (tmp_path / "data").mkdir()
    ranks = [member(rank, tmp_path / str(rank)) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
    assert len(tiny_run.losses(tmp_path / "data" / "run")) == 8
    (tmp_path / "data" / "trouble").write_text("kill 0 3")
    (tmp_path / "data" / "run" / "config.json").unlink()
    for checkpoint in (tmp_path / "data" / "run" / "checkpoints").iterdir():
        checkpoint.unlink()
    ranks = [member(rank, tmp_path / str(rank)) for rank in range(2)]
    statuses = [rank.wait(30) for rank in ranks]
    assert sorted(map(str, statuses)) == ["-9", "2"]
    assert "lost touch with another rank" in ranks[statuses.index(2)].output()


@pytest.mark.parametrize(("gpus", "ranks"), [(1, 1), (2, 2), (8, 3)])
def test_no_two_ranks_share_a_gpu(gpus: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    config = tiny_run.config(tmp_path / "run", run={"ranks": 3}, numerics={"device": "auto"})
    with pytest.warns(SamMed3DWarning, match=f"there are {gpus} of the kind cuda") if gpus < 3 else nullcontext():
        assert _local_ranks(config) == ranks


def test_a_rank_of_torchrun_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    numerics = tiny_run.config(Path("run"), numerics={"device": "cuda"}).numerics
    assert _device(numerics, 1) == torch.device("cuda", 1)
    with pytest.raises(SamMed3DError, match="local rank 2, only 2") as caught:
        _device(numerics, 2)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


def test_want_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr(backend.training.launch, "train", train)
    with pytest.raises(SamMed3DError, match=r"2 GiB\. Lower batch\.micro_batch") as caught:
        launch(tiny_run.config(tmp_path / "run"))
    assert caught.value.code is ErrorCode.DEVICE_MEMORY
