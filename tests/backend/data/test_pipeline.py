import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from filelock import FileLock
from small_sources import SETTINGS, case_folder, case_folders, labels, nnunet_folder, picture, write

from backend.data import pipeline
from backend.data.cases import SourceCase
from backend.data.index import read_index
from backend.data.jobs import Job
from backend.data.parallel import WorkerDiedError
from backend.data.pipeline import PipelineConfig, prepare
from backend.data.planning import Declarations, plan
from backend.data.split import SplitConfig
from backend.data.store import StoredArray
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning


def changed(**changes: Any) -> PipelineConfig:
    return SETTINGS.model_copy(update=changes)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs are done in this process, and their names noted: most tests are not about processes."""
    done: list[str] = []

    def run(work, jobs, _workers):
        for job in jobs:
            done.append(job.name)
            yield job, work(job)

    monkeypatch.setattr(pipeline, "run_processes", run)
    return done


def test_a_folder_of_cases_becomes_an_index_and_a_report(tmp_path: Path) -> None:
    """With real processes."""
    root = case_folders(tmp_path / "demo", 4)
    (root / "case_2" / "label.nii.gz").write_bytes(b"no label")
    steps: list[tuple[int, int]] = []
    config = changed(workers=2, max_bad=0.5, split=SplitConfig(share=0.5, seed=1))
    prepare([root], tmp_path / "out", config, lambda *step: steps.append(step))
    assert steps == [(number, 4) for number in range(1, 5)]
    entries = read_index(tmp_path / "out")
    assert [(entry.case, entry.target) for entry in entries] == [
        (f"case_{number}", target) for number in (0, 1, 3) for target in ("liver", "spleen")
    ]
    assert all((tmp_path / "out" / name).is_file() for entry in entries for name in (entry.image, entry.mask))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [failure["case"] for failure in report["failures"]] == ["case_2"]
    assert report["total"]["stored"] == report["by_modality"]["CT"]["stored"] == 6
    assert report["by_structure"]["abdomen&thorax"]["dropped"] == {}
    assert report["total"]["train"] + report["total"]["validation"] == 6
    assert 0 < report["total"]["validation"] < 6
    assert len(report["decisions"]) == 6
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| CT | 6 |" in text
    assert "case_2" in text
    assert len((tmp_path / "out" / "decisions.csv").read_text().splitlines()) == 7


def test_what_is_finished_is_not_done_again(tmp_path: Path, here: list[str]) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    prepare([root], out, SETTINGS)
    index = (out / "index.jsonl").read_bytes()
    report = (out / "report.json").read_bytes()
    here.clear()
    prepare([root], out, SETTINGS)
    assert here == []
    assert (out / "index.jsonl").read_bytes() == index
    assert (out / "report.json").read_bytes() == report
    prepare([root], out, changed(split=SplitConfig(share=1)))
    assert here == []
    assert {entry.split for entry in read_index(out)} == {"validation"}
    (out / read_index(out)[0].mask).unlink()
    prepare([root], out, SETTINGS)
    assert here == ["case_0"]
    assert (out / "index.jsonl").read_bytes() == index
    here.clear()
    write(root / "case_1" / "image.nii.gz", picture(seed=50))
    prepare([root], out, SETTINGS)
    assert here == ["case_1"]
    here.clear()
    settings = SETTINGS.preparation.model_copy(update={"spacing": 2.0})
    prepare([root], out, changed(preparation=settings))
    assert len(here) == 3


def test_a_bad_case_is_not_tried_again_until_it_changes(tmp_path: Path, here: list[str]) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    good = (root / "case_1" / "image.nii.gz").read_bytes()
    (root / "case_1" / "image.nii.gz").write_bytes(good[:-100])
    config = changed(max_bad=0.5)
    assert len(prepare([root], out, config).failures) == 1
    here.clear()
    assert len(prepare([root], out, config).failures) == 1
    assert here == []
    (root / "case_1" / "image.nii.gz").write_bytes(good)
    assert len(prepare([root], out, config).failures) == 0
    assert here == ["case_1"]


@pytest.mark.parametrize("code", [ErrorCode.FILE_READ, ErrorCode.VOLUME_TOO_LARGE])
def test_what_failed_for_want_of_permission_or_memory_is_tried_again(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, code: ErrorCode
) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"

    def refuse(path: Path, *_: object) -> None:
        raise SamMed3DError(code, f"{path} could not be had.", "Try again.")

    with monkeypatch.context() as patch:
        patch.setattr("backend.data.preparation.read_volume", refuse)
        with pytest.raises(SamMed3DError):
            prepare([root], out, changed(max_bad=1))
    here.clear()
    assert prepare([root], out, changed(max_bad=1)).failures == ()
    assert len(here) == 3


def test_too_many_bad_cases_stop_it_with_a_report_and_without_an_index(tmp_path: Path, here: list[str]) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    (root / "case_2" / "label.nii.gz").write_bytes(b"no label")
    with pytest.raises(SamMed3DError, match=r"1 of 3 cases cannot be used so far, more than 1 %.*report\.md") as caught:
        prepare([root], out, SETTINGS)
    assert caught.value.code == ErrorCode.DATA_SOURCE
    assert "case_2" in (out / "report.md").read_text()
    assert not (out / "index.jsonl").exists()
    here.clear()
    prepare([root], out, changed(max_bad=0.34))
    assert here == []
    assert len(read_index(out)) == 4


def test_it_stops_early_where_most_are_bad(tmp_path: Path, here: list[str]) -> None:
    root = tmp_path / "demo"
    for number in range(300):
        folder = root / f"case_{number:03d}"
        folder.mkdir(parents=True)
        for name in ("image.nii.gz", "label.nii.gz"):
            (folder / name).write_bytes(b"x")
    with pytest.warns(SamMed3DWarning, match="not known"), pytest.raises(SamMed3DError, match="4 of 300"):
        prepare([root], tmp_path / "out", SETTINGS)
    assert len(here) == 4


def test_a_lost_worker_is_told_and_its_case_tried_again(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    run = pipeline.run_processes

    def dying(work, jobs, workers):
        yield from run(work, [job for job in jobs if job.name != "case_1"], workers)
        yield next(job for job in jobs if job.name == "case_1"), WorkerDiedError()

    monkeypatch.setattr(pipeline, "run_processes", dying)
    report = prepare([root], out, changed(max_bad=0.5))
    assert [failure.case for failure in report.failures] == ["case_1"]
    assert "died" in report.failures[0].error
    monkeypatch.setattr(pipeline, "run_processes", run)
    here.clear()
    assert prepare([root], out, SETTINGS).failures == ()
    assert here == ["case_1"]


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"

    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(SamMed3DError, match="Stopped after 2 of 3") as caught:
        prepare([root], out, SETTINGS, interrupt)
    assert caught.value.code == ErrorCode.CANCELLED
    assert not (out / "index.jsonl").exists()
    here.clear()
    prepare([root], out, SETTINGS)
    assert here == ["case_2"]


def test_two_at_once_are_refused_and_leftovers_swept(tmp_path: Path, here: list[str]) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    prepare([root], out, SETTINGS)
    leftovers = [out / "images" / ".0a1b2c3d-x.b2nd", out / "cases" / ".0a1b2c3d-x.json", out / ".0a1b2c3d-report.json"]
    for file in leftovers:
        file.write_text("half")
    with FileLock(out / ".lock"), pytest.raises(SamMed3DError, match="Another preparation"):
        prepare([root], out, SETTINGS)
    assert all(file.exists() for file in leftovers)
    prepare([root], out, SETTINGS)
    assert not any(file.exists() for file in leftovers)


def test_what_else_lies_in_the_output_stays(tmp_path: Path, here: list[str]) -> None:
    root, out = case_folders(tmp_path / "demo"), tmp_path / "out"
    own = [out / ".pre-commit-config.yaml", out / ".python-version", out / ".Trash-1000" / "a", out / "cases" / ".own"]
    for file in own:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    prepare([root], out, SETTINGS)
    assert all(file.read_text() == "mine" for file in own)


def test_a_table_is_not_replaced_by_the_index(tmp_path: Path) -> None:
    table = tmp_path / "index.jsonl"
    table.write_text("{}")
    with pytest.raises(SamMed3DError, match="where the index would be written"):
        prepare([table], tmp_path, SETTINGS)
    assert table.read_text() == "{}"


def test_dask_gives_the_same_index(tmp_path: Path) -> None:
    root = case_folders(tmp_path / "demo")
    prepare([root], tmp_path / "processes", changed(workers=2))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        prepare([root], tmp_path / "dask", changed(scheduler=cluster.scheduler_address))
    assert (tmp_path / "dask" / "index.jsonl").read_bytes() == (tmp_path / "processes" / "index.jsonl").read_bytes()
    for name in ("images", "masks", "cases"):
        files = [path for path in (tmp_path / "dask" / name).rglob("*") if path.is_file()]
        assert len(files) in (3, 6)
        for path in files:
            other = tmp_path / "processes" / path.relative_to(tmp_path / "dask")
            if name == "cases":
                assert path.read_bytes() == other.read_bytes()
            else:
                whole = (slice(None),) * 3
                np.testing.assert_array_equal(StoredArray(path)[whole], StoredArray(other)[whole])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_killed_and_run_again_gives_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = case_folders(tmp_path / "demo", 24)
    code = """
import sys
from pathlib import Path
from small_sources import SETTINGS
from backend.data.pipeline import prepare
if __name__ == "__main__":
    prepare([Path(sys.argv[1])], Path(sys.argv[2]), SETTINGS.model_copy(update={"workers": 2}))
"""
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py"), str(root)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).resolve().parents[3])])
    monkeypatch.setenv("PYTHONPATH", paths)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    subprocess.run([*command, str(undisturbed)], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL)
    written = "[!.]*.json"  # a hidden one was cut off while it was written: the next run takes it away
    for _ in range(6000):
        if len(list((out / "cases").glob(written))) > 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (out / "cases").glob(written)}
    assert 5 < len(finished) < 24
    assert not (out / "index.jsonl").exists()
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    for name in ("index.jsonl", "report.json", "report.md", "decisions.csv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    kept = [path for path, time_ns in finished.items() if path.stat().st_mtime_ns == time_ns]
    assert len(kept) > 5


@pytest.mark.slow
def test_two_thousand_cases_five_of_them_bad(tmp_path: Path) -> None:
    """Robustness: one corrupt file among thousands."""
    good = case_folders(tmp_path / "one", 1) / "case_0"
    root = tmp_path / "demo"
    for number in range(2000):
        folder = root / f"case_{number:04d}"
        folder.mkdir(parents=True)
        for file in good.iterdir():
            os.link(file, folder / file.name)
    bad = {"case_0007", "case_0500", "case_1234", "case_1500", "case_1999"}
    spoilt = {"image.nii.gz": slice(0, -40), "label.nii.gz": slice(0, 100), "meta.json": slice(0, 10)}
    for name, (file, part) in zip(sorted(bad), [*spoilt.items(), *spoilt.items()], strict=False):
        path = root / name / file
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[part])
    report = prepare([root], tmp_path / "out", changed(workers=2))
    assert {failure.case for failure in report.failures} == bad
    assert len(report.failures) == 5
    assert len(read_index(tmp_path / "out")) == 2 * 1995


def test_modalities_and_subjects_are_declared(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "rescale_to_0_1"}, "labels": {"background": 0, "liver": 1}}
    names = ("patient01_frame01", "patient01_frame12", "patient02_frame01", "odd")
    for dataset in ("Dataset001_A", "Dataset002_B"):
        nnunet_folder(tmp_path / dataset, content, {f"{name}_0000": picture() for name in names}, *names)
    given = Declarations(modalities=(("Dataset001*", "CT"), ("*", "PET")), subject=r"^(patient\d+)_")
    with pytest.warns(SamMed3DWarning, match="fits 6 of 8 cases"):
        jobs, failures = plan([tmp_path / "Dataset001_A", tmp_path / "Dataset002_B"], given)
    assert failures == []
    assert {(job.dataset, job.cases[0].modality) for job in jobs} == {("Dataset001_A", "CT"), ("Dataset002_B", "PET")}
    assert sorted(job.cases[0].subject for job in jobs if job.dataset == "Dataset001_A") == [
        "Dataset001_A/odd",
        "Dataset001_A/patient01",
        "Dataset001_A/patient01",
        "Dataset001_A/patient02",
    ]
    with pytest.warns(SamMed3DWarning, match="modality of 4 volumes of the dataset Dataset002_B is not known"):
        plan([tmp_path / "Dataset002_B"], Declarations())
    typo = Declarations(modalities=(("Dataset002_B", "MR"), ("Dataset02_B", "CT")))
    with pytest.warns(SamMed3DWarning, match='"Dataset02_B", whose .* CT; there are Dataset002_B') as told:
        plan([tmp_path / "Dataset002_B"], typo)
    assert len(told) == 1


@pytest.mark.parametrize(("expression", "fits"), [(r"Patient(\d+)", 0), (r"patient(\d+)", 3)])
def test_an_expression_for_subjects_that_does_not_fit_is_told(tmp_path: Path, expression: str, fits: int) -> None:
    for name in ("patient1_a", "patient1_b", "patient2", "odd"):
        case_folder(tmp_path / "in" / name, {"modality": "CT"})
    told = f"fits {fits} of 4 cases; it does not fit odd"
    if fits:
        with pytest.warns(SamMed3DWarning, match=told):
            plan([tmp_path / "in"], Declarations(subject=expression))
    else:
        with pytest.raises(SamMed3DError, match=told):
            plan([tmp_path / "in"], Declarations(subject=expression))


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_name_that_is_not_utf8_sets_its_case_aside(tmp_path: Path, here: list[str]) -> None:
    root = case_folders(tmp_path / "demo", 2)
    (root / "case_1").rename(root / os.fsdecode(b"caf\xe9"))
    report = prepare([root], tmp_path / "out", changed(max_bad=1))
    assert [failure.case for failure in report.failures] == ["caf\\udce9"]
    assert "not in UTF-8" in report.failures[0].error
    assert {entry.case for entry in read_index(tmp_path / "out")} == {"case_0"}


@pytest.mark.parametrize("changes", ["voxels.raw", "slice.dcm"])
def test_voxels_beside_a_header_are_noticed(tmp_path: Path, changes: str) -> None:
    image = tmp_path / "voxels.mhd" if changes == "voxels.raw" else tmp_path
    (tmp_path / changes).write_bytes(b"before")
    case = SourceCase("a", "s", "d", "MR", image, tmp_path / "label.nii.gz")
    digest = Job("d", "a", (case,)).digest(SETTINGS.preparation)
    assert Job("d", "a", (case,)).digest(SETTINGS.preparation) == digest
    (tmp_path / changes).write_bytes(b"afterwards")
    assert Job("d", "a", (case,)).digest(SETTINGS.preparation) != digest


def test_one_case_in_two_sources_is_refused(tmp_path: Path) -> None:
    first, second = case_folders(tmp_path / "first"), case_folders(tmp_path / "second")
    with pytest.raises(SamMed3DError, match=r"first and .*second both hold a case case_0 of the dataset demo"):
        plan([first, second], Declarations())
    with pytest.raises(SamMed3DError, match="both hold"):
        plan([first, first], Declarations())


def test_the_published_layout_makes_one_job_of_an_images_categories(tmp_path: Path) -> None:
    for category in ("liver", "spleen"):
        write(tmp_path / category / "x" / "imagesTr" / "a.nii.gz", picture())
        write(tmp_path / category / "x" / "labelsTr" / "a.nii.gz", labels())
    shutil.copytree(tmp_path / "liver" / "x", tmp_path / "liver" / "y")
    jobs, _ = plan([tmp_path], Declarations(modalities=(("*", "CT"),)))
    assert [(job.dataset, len(job.cases)) for job in jobs] == [("x", 2), ("y", 1)]
