import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fakes import Ball, Call, FakeModel, Floats

from backend.errors import SamMed3DWarning
from backend.inference import engine as engine_module
from backend.inference.engine import Engine

GPU = torch.device("meta")  # a device that every computer has
CROP = np.ones((32, 32, 32), dtype=np.float32)
LOGITS = np.zeros((16, 16, 16), dtype=np.float32)


class Full(FakeModel):
    """On the GPU, out of memory in one of its parts."""

    def __init__(self, part: str, error: RuntimeError) -> None:
        super().__init__()
        self.part = part
        self.error = error
        self.devices: list[str] = []

    def check(self, part: str) -> None:
        if self.devices[-1] != "cpu" and part == self.part:
            raise self.error

    def to(self, device: torch.device) -> object:
        self.devices.append(device.type)
        self.check("to")
        return self

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        self.check("embed")
        return super().embed(torch.ones(image.shape))

    def decode(
        self, embedding: torch.Tensor, points: torch.Tensor, labels: torch.Tensor, mask_logits: torch.Tensor
    ) -> torch.Tensor:
        assert embedding.device == points.device == labels.device == mask_logits.device
        self.check("decode")
        return super().decode(embedding, points, labels, mask_logits)

    def answer(self, call: Call) -> Floats:
        return call.previous + call.labels[0]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("20 GiB"), RuntimeError("MPS backend out of memory")], ids=str
)
@pytest.mark.parametrize("part", ["to", "embed", "decode"])
def test_full_device_is_left_for_the_cpu(part: str, error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "autocast", lambda *_: nullcontext())  # it knows no meta device
    model = Full(part, error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SamMed3DWarning)
        engine = Engine(model, GPU)
        embedding = engine.embed(CROP)
        logits = engine.decode(embedding, [(1, 2, 3)], [1], LOGITS)
    (warning,) = caught
    assert warning.category is SamMed3DWarning
    assert "meta device is out of memory" in str(warning.message)
    assert (model.devices[0], model.devices[-1]) == ("meta", "cpu")
    assert engine.device.type == "cpu"
    assert (logits == 1).all()
    np.testing.assert_array_equal(model.calls[0].points, [[1, 2, 3]])


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), RuntimeError("CUDA error: an illegal access")], ids=str
)
def test_other_errors_are_not_hidden(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "autocast", lambda *_: nullcontext())
    with pytest.raises(RuntimeError, match=str(error)):
        Engine(Full("embed", error), GPU).embed(CROP)


def test_out_of_memory_on_the_cpu_is_not_tried_again() -> None:
    class Hopeless(Ball):
        def embed(self, image: torch.Tensor) -> torch.Tensor:
            super().embed(image)
            raise torch.OutOfMemoryError("20 GiB")

    model = Hopeless()
    engine = Engine(model, torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        engine.embed(CROP)
    assert model.embedded == 1


@pytest.mark.parametrize(("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_the_encoders_and_results_are_float32(precision: str, expected: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    class Linear(FakeModel):
        def embed(self, image: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            product = image @ image
            seen.append(product.dtype)
            return product

        def answer(self, call: Call) -> Floats:
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
            return call.previous

    engine = Engine(Linear(), torch.device("cpu"), precision)
    embedding = engine.embed(CROP)
    assert embedding.dtype == torch.float32
    assert engine.decode(embedding, [(1, 2, 3)], [1], LOGITS).dtype == np.float32
    assert seen == [expected, torch.float32]
