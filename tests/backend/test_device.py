"""The choice of device and precision, with the hardware pretended."""

import pytest
import torch

from backend.device import autocast, available_devices, choose_device, is_out_of_memory
from backend.errors import ErrorCode, SamMed3DError


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False, bf16: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)


@pytest.mark.parametrize(
    ("cuda", "mps", "there"),
    [(True, True, ("cuda", "mps", "cpu")), (False, True, ("mps", "cpu")), (False, False, ("cpu",))],
)
def test_auto_takes_the_fastest(cuda: bool, mps: bool, there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert available_devices() == there
    assert choose_device() == torch.device(there[0])
    assert [choose_device(name).type for name in there] == list(there)


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu", ""])
def test_unavailable_device_names_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(SamMed3DError) as caught:
        choose_device(name)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert repr(name) in caught.value.problem
    assert "auto, cpu" in caught.value.remedy


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_precision_on_a_cpu(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is dtype


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_precision_on_a_gpu_is_what_it_has_in_hardware(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, bf16=bf16)
    asked: list[bool] = []
    monkeypatch.setattr(torch, "autocast", lambda _, **options: asked.append(options["enabled"]))
    autocast(torch.device("cuda"))
    assert asked == [bf16]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (MemoryError(), False),
    ],
)
def test_out_of_memory_is_that_of_a_gpu(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
