"""Samples from prepared data: a crop of an image and the object in it."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from backend.data.index import IndexEntry
from backend.data.resize import resize_pair
from backend.data.sample import Key, Sample, click_seed, sample_rng
from backend.data.store import StoredArray
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import Index3
from backend.inference.preprocess import Crop, normalise_quietly
from backend.volume import VoxelArray

Mask = npt.NDArray[np.bool_]


class IndexDataset:
    """Crops of the masks of an index (see `backend.data.sample.SampleDataset`).

    An object that fits in the crop is in it whole; of a larger one a part is, around one of its voxels by chance.
    Only the window is read, besides the mask of a large object.

    Args:
        folder: of the index.
        entries: the masks.
        image_size: voxels along each axis of the crop.
        seed: of crops and clicks.
        crop: "jitter", a window around the object's box, moved by chance; "resize", the whole volume.
        jitter: by how many voxels the window is moved at most, along each axis.
        flips: mirror each axis with probability 1/2 (supplement, C.2).
        samples_per_epoch: a random part of the masks in each epoch (or, if it is more than there are, each of
            them several times, in other crops); None for each once.

    Raises:
        SamMed3DError: DATA_INDEX if there are no entries, CONFIG_INVALID if `jitter` could lose a large object;
            from a sample DATA_CORRUPT, naming the file.
    """

    def __init__(
        self,
        folder: Path,
        entries: Sequence[IndexEntry],
        image_size: int,
        seed: int,
        *,
        crop: Literal["jitter", "resize"] = "jitter",
        jitter: int = 0,
        flips: bool = False,
        samples_per_epoch: int | None = None,
    ) -> None:
        if not entries:
            raise SamMed3DError(
                ErrorCode.DATA_INDEX,
                f"There is no mask to take samples of in {folder}.",
                "Look at its report.md. Masks that are held out for validation are not trained on, and data.stage "
                'chooses among data sets: "all" takes every one.',
            )
        if crop == "jitter" and jitter >= image_size // 2:
            raise SamMed3DError(
                ErrorCode.CONFIG_INVALID,
                f"data.jitter is {jitter} voxels, which moves objects out of a crop of {image_size}.",
                f"Choose one under {image_size // 2}.",
            )
        self._folder = folder
        self._entries = tuple(entries)
        self._size = image_size
        self._seed = seed
        self._crop = crop
        self._jitter = jitter
        self._flips = flips
        self._length = samples_per_epoch or len(entries)
        self._whole = samples_per_epoch is None

    def __len__(self) -> int:
        """Samples an epoch."""
        return self._length

    def __getitem__(self, key: Key) -> Sample:
        """The sample of that key."""
        entry = self._entries[self._place(key)]
        rng = sample_rng(self._seed, key)
        image, mask = self._resized(entry) if self._crop == "resize" else self._window(entry, rng)
        if not mask.any():
            raise _no_object(self._folder / entry.mask)
        image = normalise_quietly(image)
        if self._flips:
            axes = tuple(np.flatnonzero(rng.random(3) < 0.5).tolist())
            image, mask = np.flip(image, axes), np.flip(mask, axes)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image)[None]),
            torch.from_numpy(np.ascontiguousarray(mask)[None]),
            torch.tensor(click_seed(self._seed, key)),
        )

    def _place(self, key: Key) -> int:
        """Which entry: by the index itself, or by its place in a random order of this epoch."""
        if self._whole:
            return key.index
        turn, index = divmod(key.index, len(self._entries))
        return int(_order(len(self._entries), self._seed, key.epoch, turn)[index])

    def _window(self, entry: IndexEntry, rng: np.random.Generator) -> tuple[Crop, Mask]:
        stored = StoredArray(self._folder / entry.mask)
        start = self._start(entry, stored, rng)
        image = padded_window(StoredArray(self._folder / entry.image), start, self._size)
        return image.astype(np.float32), padded_window(stored, start, self._size) != 0

    def _start(self, entry: IndexEntry, stored: StoredArray, rng: np.random.Generator) -> Index3:
        """The window's first voxel."""
        first, last = np.array(entry.box)
        length = last - first + 1
        offset = rng.integers(-self._jitter, self._jitter + 1, 3)
        if (length <= self._size).all():
            spare = (self._size - length) // 2
            offset = np.clip(offset, -spare, spare)  # so that it is never cut
            centre = (first + last + 1) // 2
        else:  # a window within its box may hold nothing of it: go by one of its voxels
            voxel = _one_of(stored[_slices(first, last + 1)], rng)
            if voxel is None:
                raise _no_object(stored.path)
            centre = first + voxel
        x, y, z = (centre + offset - self._size // 2).tolist()
        return x, y, z

    def _resized(self, entry: IndexEntry) -> tuple[Crop, Mask]:
        whole = (slice(None), slice(None), slice(None))
        image = StoredArray(self._folder / entry.image)[whole]
        return resize_pair(image, StoredArray(self._folder / entry.mask)[whole] != 0, self._size)


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int, turn: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, turn, count)).permutation(count)


def _one_of(mask: npt.NDArray[np.generic], rng: np.random.Generator) -> npt.NDArray[np.int64] | None:
    """One of a mask's voxels (3,) by chance, without a list of all, which takes fifty times the mask's memory."""
    upto = np.count_nonzero(mask, axis=(1, 2)).cumsum()
    if not upto[-1]:
        return None
    chosen = int(rng.integers(upto[-1]))
    x = int(np.searchsorted(upto, chosen, side="right"))
    before = int(upto[x - 1]) if x else 0
    return np.array([x, *np.argwhere(mask[x])[chosen - before]])


def padded_window(stored: VoxelArray, start: Index3, size: int) -> npt.NDArray[np.generic]:
    """The cube of `size` voxels from `start`, zero where it is beyond the array."""
    low = [max(0, first) for first in start]
    high = [max(lowest, min(n, first + size)) for lowest, n, first in zip(low, stored.shape, start, strict=True)]
    window = np.zeros((size, size, size), dtype=stored.dtype)
    inside = _slices(np.subtract(low, start), np.subtract(high, start))
    window[inside] = stored[_slices(np.array(low), np.array(high))]
    return window


def _slices(start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> tuple[slice, slice, slice]:
    x, y, z = (slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))
    return x, y, z


def _no_object(path: Path) -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.DATA_CORRUPT,
        f"{path} does not show its object where the index says.",
        "Delete it, and run `python -m backend.prepare` with the same arguments again: it makes what is missing.",
    )
