"""The ranks of a run, seen from one of them, and what they tell each other besides gradients."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which rank this is, of how many. With one rank there is no process group, and nothing is sent.

    Attributes:
        device: where this rank computes.
        rank: from 0; the first one writes files.
        size: ranks on all machines.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's float64 values, on the CPU: the same on all ranks."""
        if self.size == 1:
            return values
        there = values.to(self.device)
        dist.all_reduce(there)
        return there.cpu()

    def share(self, value: T) -> T:
        """What the first rank gives, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]
