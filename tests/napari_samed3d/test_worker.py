"""The model thread alone: newest request wins, a failure leaves the old model, nothing comes after the end."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.engine import Engine
from backend.inference.prompts import Click
from backend.models.region import Region
from backend.phantom import Phantom
from napari_samed3d.worker import Answer, Failure, ModelChoice, ModelThread, Request

REGION = ModelChoice("region", "cpu")


class Gate(Region):
    """Region growing that waits at the door until it is let in."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Event()

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.open.wait(30)
        return super().embed(image)


@pytest.fixture
def thread(qtbot: Any) -> Any:
    """A model thread and what it said."""
    out = ModelThread()
    said: list[Any] = []
    out.answered.connect(said.append)
    out.failed.connect(said.append)
    yield out, said
    out.close()


def ask(phantom: Phantom, generation: int, name: str = "liver", choice: ModelChoice = REGION) -> Request:
    """A request for one click."""
    x, y, z = phantom.middle_of(name)
    return Request(generation, choice, phantom.volume, (Click((x, y, z)),), extend=False)


def test_the_newest_request_wins(thread: Any, phantom: Phantom, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr("napari_samed3d.worker.load_engine", lambda *_, **__: Engine(gate, torch.device("cpu")))
    model, said = thread
    model.submit(ask(phantom, 1))
    assert gate.entered.wait(30)
    for generation in range(2, 20):
        model.submit(ask(phantom, generation, "spleen"))
    gate.open.set()
    qtbot.waitUntil(lambda: any(isinstance(a, Answer) and a.final for a in said), timeout=30_000)
    assert {answer.generation for answer in said} == {19}
    patch = next(a.patch for a in said if a.patch is not None)
    x, y, z = np.array(phantom.middle_of("spleen")) - patch.start
    assert patch.mask[x, y, z]


def test_a_model_that_fails_leaves_the_old_one(thread: Any, phantom: Phantom, qtbot: Any, tmp_path: Path) -> None:
    model, said = thread
    model.submit(ask(phantom, 1))
    qtbot.waitUntil(lambda: len(said) == 2, timeout=30_000)
    model.submit(ask(phantom, 2, choice=ModelChoice(str(tmp_path / "none.pth"), "cpu")))
    qtbot.waitUntil(lambda: len(said) == 3, timeout=30_000)
    assert isinstance(said[2], Failure)
    assert isinstance(said[2].error, SamMed3DError)
    model.submit(ask(phantom, 3))
    qtbot.waitUntil(lambda: len(said) == 5, timeout=30_000)
    assert np.array_equal(said[3].patch.mask, said[0].patch.mask)


def test_a_defect_in_the_thread_reaches_the_user_and_the_thread_lives(
    thread: Any, phantom: Phantom, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = thread
    monkeypatch.setattr("napari_samed3d.worker.load_engine", lambda *_, **__: 1 / 0)
    model.submit(ask(phantom, 1))
    qtbot.waitUntil(lambda: len(said) == 1, timeout=30_000)
    assert isinstance(said[0].error, ZeroDivisionError)
    monkeypatch.undo()
    model.submit(ask(phantom, 2))
    qtbot.waitUntil(lambda: isinstance(said[-1], Answer) and said[-1].final, timeout=30_000)


def test_who_chooses_another_model_does_not_wait_for_a_download(
    thread: Any, phantom: Phantom, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading = threading.Event()

    def load(model: str, device: str, progress: Any, cancel: threading.Event) -> Engine:
        if model == "far":
            while not cancel.wait(0.01):
                progress(5, 10)
                downloading.set()
            raise SamMed3DError(ErrorCode.CANCELLED, "Cancelled.", "Start again.")
        return Engine(Region(), torch.device("cpu"))

    monkeypatch.setattr("napari_samed3d.worker.load_engine", load)
    model, said = thread
    loading: list[int] = []
    model.loading.connect(lambda generation, *_: loading.append(generation))
    far = ModelChoice("far", "cpu")
    model.submit(ask(phantom, 1, choice=far))
    assert downloading.wait(30)
    model.submit(ask(phantom, 2, choice=far))
    qtbot.waitUntil(lambda: 2 in loading, timeout=30_000)  # the newest is told how far it is, and it goes on
    assert said == []
    model.submit(ask(phantom, 3))
    qtbot.waitUntil(lambda: any(isinstance(one, Answer) and one.final for one in said), timeout=30_000)
    assert [type(one) for one in said if one.generation != 3] == [Failure]


def test_nothing_comes_after_cancel_or_close(
    thread: Any, phantom: Phantom, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr("napari_samed3d.worker.load_engine", lambda *_, **__: Engine(gate, torch.device("cpu")))
    model, said = thread
    model.submit(ask(phantom, 1))
    assert gate.entered.wait(30)
    model.cancel(2)
    gate.open.set()
    qtbot.wait(300)
    assert said == []
    model.submit(ask(phantom, 3))
    model.close()
    qtbot.wait(100)
    assert said == []
