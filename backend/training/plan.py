"""Which samples each rank sees, and with what weight: exact for any number of ranks and any last window.

A window is what one optimizer step sees. Its gradient is the mean over its samples, whoever computes them:
DistributedDataParallel averages over the ranks, so a sample weighs ranks / samples of the window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.data.sample import Key


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of one rank.

    Attributes:
        keys: its samples.
        weight: of each sample's loss; 0 where the rank has no share of the window and only keeps the others company.
        last: whether it is the rank's last pass of the window, after which the ranks exchange gradients.
    """

    keys: tuple[Key, ...]
    weight: float
    last: bool


@dataclass(frozen=True)
class Window:
    """One rank's part of an optimizer step.

    Attributes:
        passes: at least one.
        size: samples of all ranks.
        end: samples of all ranks from the start of the epoch up to the end of this window.
    """

    passes: tuple[Pass, ...]
    size: int
    end: int


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut.

    Args:
        length: samples of an epoch.
        samples_per_step: of a window; the last one of an epoch may be smaller.
        micro_batch: most samples of a pass.
        seed: of the order.
        rank: which of the ranks.
        ranks: how many there are.
    """

    length: int
    samples_per_step: int
    micro_batch: int
    seed: int
    rank: int = 0
    ranks: int = 1

    def steps(self) -> int:
        """Windows of an epoch."""
        return -(-self.length // self.samples_per_step)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The samples of an epoch, each once, in an order that depends on the seed and the epoch alone."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)

    def windows(self, epoch: int, position: int = 0) -> Iterator[Window]:
        """The rank's part of every window of an epoch, from the `position`-th sample of all ranks on."""
        order = self.order(epoch)
        for start in range(position, self.length, self.samples_per_step):
            keys = [Key(epoch, int(index)) for index in order[start : start + self.samples_per_step]]
            yield Window(self._passes(keys), len(keys), start + len(keys))

    def _passes(self, keys: list[Key]) -> tuple[Pass, ...]:
        own = keys[self.rank :: self.ranks]
        if not own:  # a rank that stayed away would leave the others waiting
            return (Pass((keys[0],), 0.0, last=True),)
        starts = range(0, len(own), self.micro_batch)
        weight = self.ranks / len(keys)
        return tuple(
            Pass(tuple(own[start : start + self.micro_batch]), weight, last=start == starts[-1]) for start in starts
        )
