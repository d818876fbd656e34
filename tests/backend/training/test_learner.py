"""One optimizer step, without the run around it."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from torch import nn
from torch.utils.data import default_collate

from backend.training.learner import Learner, StepReport
from backend.training.plan import Plan
from backend.training.starts import build_model
from backend.training.state import content_digest
from backend.training.world import World


def one_step(out: Path, **sections: dict[str, Any]) -> tuple[Learner, StepReport]:
    config = tiny_run.config(out, **sections)
    learner = Learner(build_model(config.model, 0), config, World(torch.device("cpu")))
    data = tiny_run.Balls(0, 4)
    (window,) = Plan(4, 4, 3, seed=0).windows(0)
    batches = (default_collate([data[key] for key in part.keys]) for part in window.passes)
    return learner, learner.step(window, batches, 1.0, lambda: [2.0])


@pytest.mark.slow
def test_compiled_network_learns_the_same_under_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced, but not made into machine code, which would take minutes.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    plain, report = one_step(tmp_path / "run")
    compiled, same = one_step(tmp_path / "run", numerics={"compile": True})
    assert same.loss == pytest.approx(report.loss, rel=1e-5)
    assert same.grad_norm == pytest.approx(report.grad_norm, rel=1e-4)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "float32"), ("float16", "float16")])
def test_goes_on_with_another_precision(before: str, after: str, tmp_path: Path) -> None:
    learner, _ = one_step(tmp_path / "run", numerics={"precision": before})
    config = tiny_run.config(tmp_path / "run", numerics={"precision": after})
    other = Learner(build_model(config.model, 1), config, World(torch.device("cpu")))
    own = other.optimizer.param_groups[0]["fused"]
    state = learner.state_dict()
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = not own  # as on another kind of device
    other.load_state_dict(state)
    assert other.optimizer.param_groups[0]["fused"] is own
    assert content_digest(other.state_dict()["model"]) == content_digest(state["model"])


def test_the_mean_of_the_weights_follows_them(tmp_path: Path) -> None:
    learner, _ = one_step(tmp_path / "run", optimizer={"ema_decay": 0.5})
    first = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    data = tiny_run.Balls(0, 4)
    (window,) = Plan(4, 4, 3, seed=0).windows(1)
    learner.step(window, (default_collate([data[key] for key in part.keys]) for part in window.passes), 1.0, list)
    for name, second in learner.model.state_dict().items():
        torch.testing.assert_close(learner.best_model.state_dict()[name], (first[name] + second) / 2)
    assert any(not torch.equal(first[name], second) for name, second in learner.model.state_dict().items())


def test_gradient_is_clipped_by_its_norm(tmp_path: Path) -> None:
    _, free = one_step(tmp_path / "run", optimizer={"clip_norm": None})
    learner, report = one_step(tmp_path / "run", optimizer={"clip_norm": free.grad_norm / 10})
    assert report.grad_norm == pytest.approx(free.grad_norm)
    norms = [parameter.grad.norm() for parameter in learner.model.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(free.grad_norm / 10, rel=1e-3)
    assert report.told == [2.0]


def test_accumulated_passes_are_one_batch(tmp_path: Path) -> None:
    learner, report = one_step(tmp_path / "run", optimizer={"clip_norm": None})  # 3 samples and 1
    data, order = tiny_run.Balls(0, 4), Plan(4, 4, 4, seed=0)
    (window,) = order.windows(0)
    whole = default_collate([data[key] for key in window.passes[0].keys])
    config = tiny_run.config(tmp_path / "run", optimizer={"clip_norm": None})
    other = Learner(build_model(config.model, 0), config, World(torch.device("cpu")))
    again = other.step(window, iter([whole]), 1.0, list)
    assert again.loss == pytest.approx(report.loss, rel=1e-6)
    for one, two in zip(learner.model.parameters(), other.model.parameters(), strict=True):
        if one.grad is not None and two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-7)
        assert (one.grad is None) == (two.grad is None)
