"""Where the network runs, and in which precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from backend.errors import ErrorCode, SamMed3DError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def available_devices() -> tuple[str, ...]:
    """The devices of this computer, the fastest first; the last is always "cpu"."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(name for name, there in found.items() if there)


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name: "cuda", "mps", "cpu", or "auto" for the fastest there is.

    Raises:
        SamMed3DError: DEVICE_UNAVAILABLE, with the devices that there are.
    """
    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise SamMed3DError(
            ErrorCode.DEVICE_UNAVAILABLE,
            f"The device {name!r} is not available on this computer.",
            f"Choose one of auto, {', '.join(there)}; for cuda, check the driver and that PyTorch is a CUDA build.",
        )
    return torch.device(name)


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[object]:
    """Context in which the network computes at that precision; weights keep their own type.

    Args:
        device: where the network is.
        precision: "auto" is bfloat16 on a CUDA GPU that has it in hardware, and float32 everywhere else.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU ran out of memory, so that the same work may still succeed on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # MPS, the CUDA driver and cuBLAS have no type of their own for it; the CPU's allocator words it differently.
    message = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in message or "ALLOC_FAILED" in message)


@contextmanager
def memory_told(device: torch.device, remedy: str) -> Iterator[None]:
    """Turn a GPU's want of memory into DEVICE_MEMORY, with what to do about it."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise SamMed3DError(
            ErrorCode.DEVICE_MEMORY, f"{device} ran out of memory: {str(error).splitlines()[0]}", remedy
        ) from error
