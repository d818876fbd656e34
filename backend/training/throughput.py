"""How fast a run is, and what it waits for."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.training.config import ClickSection
from backend.training.episode import TrainedModel
from backend.training.freezing import is_frozen


class Meter:
    """A clock that tells waiting from working.

    Attributes:
        waited: seconds of waiting for data since the last lap.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to measure anew."""
        self._start, self.waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, time is waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def lap(self) -> float:
        """Seconds since the last lap."""
        seconds = time.perf_counter() - self._start
        self.restart()
        return seconds


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that were in use: on the GPU, or by this process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sample_flops(model: TrainedModel, clicks: ClickSection, size: int) -> float:
    """Floating-point operations that training on one sample of (size, size, size) takes, counted in one forward pass.

    The backward pass counts twice the forward pass, of frozen encoders not at all; recomputed activations do not
    count, as is the custom for "model FLOP/s", nor do interactions without a gradient.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        empty = model.empty_mask(1, size)
        embedding = model.embed(empty.new_zeros(1, 1, size, size, size))
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        label = torch.ones(1, 1, dtype=torch.long, device=empty.device)
        model.decode(embedding, empty.new_zeros(1, 1, 3), label, empty)
    passes = 1 if is_frozen(model.image_encoder) else 3
    return float(passes * encoder.get_total_flops() + 3 * clicks.interactions * decoder.get_total_flops())
