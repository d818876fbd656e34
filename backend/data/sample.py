"""One training sample: what every dataset gives, and how its randomness is keyed."""

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor


class Key(NamedTuple):
    """Which sample: in every epoch each index once. The sample depends on nothing but this and the dataset."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a key for


class Sample(NamedTuple):
    """A crop and the object in it; `torch.utils.data.default_collate` puts a batch axis before each.

    Attributes:
        image: (1, S, S, S) float32, normalised, axes in the network's order (x, y, z).
        mask: (1, S, S, S) bool, the object.
        key: () int64, the seed of the clicks that are simulated on this sample.
    """

    image: Tensor
    mask: Tensor
    key: Tensor


class SampleDataset(Protocol):
    """A map-style dataset of `Sample`s, addressed by epoch and index."""

    def __len__(self) -> int:
        """Samples an epoch."""

    def __getitem__(self, key: Key) -> Sample:
        """The sample of that key: the same in any process, but for the rounding of another number of threads."""


def sample_rng(seed: int, key: Key) -> np.random.Generator:
    """The random numbers of one sample, the same on every machine and in any order of reading."""
    return np.random.default_rng((seed, *key))


def click_seed(seed: int, key: Key) -> int:
    """The seed of the clicks simulated on a sample, as its `Sample.key`."""
    return int(np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0] >> 1)
