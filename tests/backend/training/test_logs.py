"""The log, the pictures and the clock of a run."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ErrorCode, SamMed3DError
from backend.training.logs import RunLog, read_log
from backend.training.plots import plot_run
from backend.training.state import Counters
from backend.training.throughput import Meter


@pytest.fixture
def _no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it fails


def fill(path: Path) -> None:
    log = RunLog(path, Counters())
    log.write("start", 0, epoch=0)
    log.write("validation", 0, epoch=0, dice={"1": 0.1, "3": 0.2})
    for step in range(1, 5):
        log.write("step", step, epoch=0, loss=1.0 / step, lr=1e-3)
    log.write("validation", 4, epoch=1, dice={"1": 0.3, "3": 0.4})
    log.close()


BEGUN = [("start", 0), ("validation", 0)]
STEPS = [("step", step) for step in range(1, 5)]


@pytest.mark.usefixtures("_no_board")
@pytest.mark.parametrize(
    ("start", "kept"),
    [
        (Counters(), [("start", 0)]),
        (Counters(step=2, validated=0), BEGUN + STEPS[:2]),
        (Counters(epoch=1, step=4, validated=0), BEGUN + STEPS),
        (Counters(epoch=1, step=4, validated=1), [*BEGUN, *STEPS, ("validation", 4)]),
    ],
)
def test_what_came_after_the_checkpoint_is_taken_back(start: Counters, kept: list[Any], tmp_path: Path) -> None:
    fill(tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "st')  # the kill came here
    log = RunLog(tmp_path / "log.jsonl", start)
    log.write("note", start.step, text="on")
    lines = [(line["kind"], line["step"]) for line in read_log(tmp_path / "log.jsonl")]
    assert lines == [*kept, ("note", start.step)]


@pytest.mark.usefixtures("_no_board")
def test_lines_are_strict_json(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", Counters())
    log.write("step", 1, loss=float("nan"), dice=[0.5, float("inf")], more={"a": float("-inf"), "b": 2})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert line == {"kind": "step", "step": 1, "loss": None, "dice": [0.5, None], "more": {"a": None, "b": 2}}


@pytest.mark.usefixtures("_no_board")
def test_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", Counters())
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(SamMed3DError, match=r"log.jsonl could not be written") as caught:
        log.write("step", 1)
    assert caught.value.code is ErrorCode.FILE_WRITE


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fill(tmp_path / "log.jsonl")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"step/loss", "step/lr", "validation/dice/1", "validation/dice/3"} <= set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("step/loss")][1] == (2, 0.5)


@pytest.mark.usefixtures("_no_board")
def test_picture_shows_the_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fill(tmp_path / "log.jsonl")
    plot_run(tmp_path / "log.jsonl", tmp_path / "full.png")
    RunLog(tmp_path / "log.jsonl", Counters())  # without steps and validations
    plot_run(tmp_path / "log.jsonl", tmp_path / "empty.png")
    full, empty = ((tmp_path / name).read_bytes() for name in ("full.png", "empty.png"))
    assert full.startswith(b"\x89PNG")
    assert empty.startswith(b"\x89PNG")
    assert len(full) > len(empty)


@pytest.mark.usefixtures("_no_board")
def test_picture_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "log.jsonl")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SamMed3DError, match="matplotlib") as caught:
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING
    assert "napari-samed3d[train]" in caught.value.remedy


def test_clock_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 7.5, 10.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    meter = Meter()  # 0
    with meter.waiting():  # 1 to 3
        pass
    with meter.waiting():  # 7 to 7.5
        pass
    assert meter.waited == 2.5
    assert meter.lap() == 10
    assert meter.waited == 0
