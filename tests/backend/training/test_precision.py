"""The precision of a run, and the mean of its weights."""

import pytest
import torch
from torch import nn

from backend.training.ema import build_ema
from backend.training.precision import build_scaler, training_precision


@pytest.mark.parametrize(
    ("device", "asked", "bf16", "chosen"),
    [
        ("cpu", "auto", False, "float32"),
        ("mps", "auto", False, "float32"),
        ("cuda", "auto", True, "bfloat16"),
        ("cuda", "auto", False, "float16"),
        ("cuda", "float32", True, "float32"),
        ("cpu", "bfloat16", False, "bfloat16"),
    ],
)
def test_precision_is_what_the_device_is_fastest_in(
    device: str, asked: str, bf16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    assert training_precision(torch.device(device), asked) == chosen


def test_only_float16_scales_the_loss() -> None:
    cpu = torch.device("cpu")
    assert build_scaler(cpu, "float16").is_enabled()
    assert not build_scaler(cpu, "bfloat16").is_enabled()
    assert not build_scaler(cpu, "float32").is_enabled()


def test_mean_of_the_weights_follows_them() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 5.0)
    ema = build_ema(model, 0.75)
    assert ema is not None
    seen = []
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
        seen.append(ema.module.weight.item())
    assert seen == [1.0, 0.75 * 1 + 0.25 * 2, 0.75 * 1.25 + 0.25 * 4]  # the first weights are the first mean
    assert not ema.module.weight.requires_grad
    assert build_ema(model, None) is None
