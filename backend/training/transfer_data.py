"""Volumes with several labelled structures, whole or in crops, from prepared data or made up."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.data.dataset import padded_window
from backend.data.index import IndexEntry, Split, read_index
from backend.data.sample import Key, sample_rng
from backend.data.store import StoredArray
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import Index3
from backend.inference.preprocess import normalise_quietly
from backend.phantom import ORGANS, torso
from backend.training.transfer_config import TransferDataSection
from backend.volume import VoxelArray

Labels = npt.NDArray[np.uint8]
Box = tuple[Index3, Index3]

# Of a phantom: the field of view (mm), and how far scale and brightness differ between two.
_FIELD_MM = (330.0, 240.0, 300.0)
_SCALE = (0.85, 1.15)
_BRIGHTNESS = (0.8, 1.2)
_NOISE = 40.0


class LabelledCrop(NamedTuple):
    """A crop with its labels.

    Attributes:
        image: (1, S, S, S) float32, normalised, axes (x, y, z).
        labels: (1, S, S, S) int64: 0 for the background, then the targets in their order.
    """

    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Case:
    """One volume and where its targets are, read by window.

    Attributes:
        name: unique among the cases.
        image: (X, Y, Z).
        masks: of each label that is marked, the same shape, not 0 inside.
        boxes: the first and last voxel of each.
    """

    name: str
    image: VoxelArray
    masks: dict[int, VoxelArray]
    boxes: dict[int, Box]

    def crop(self, size: int, rng: np.random.Generator) -> LabelledCrop:
        """A cube around a random place in the box of a random target, zero beyond the volume.

        It is not mirrored: targets may have a side.
        """
        low, high = np.array(self.boxes[int(rng.choice(sorted(self.boxes)))])
        x, y, z = (rng.integers(low, high + 1) - size // 2).tolist()
        image, labels = self._read(lambda array: padded_window(array, (x, y, z), size))
        return LabelledCrop(_tensor(normalise_quietly(image)), _tensor(labels.astype(np.int64)))

    def whole(self) -> tuple[npt.NDArray[np.float32], Labels]:
        """The image's values and the labels, (X, Y, Z)."""
        return self._read(lambda array: np.asarray(array[slice(None), slice(None), slice(None)]))

    def _read(self, read: Callable[[VoxelArray], npt.NDArray[np.generic]]) -> tuple[npt.NDArray[np.float32], Labels]:
        image = read(self.image).astype(np.float32)
        labels = np.zeros(image.shape, dtype=np.uint8)
        for label in sorted(self.masks):
            labels[read(self.masks[label]) != 0] = label
        return image, labels


def training_batch(cases: Sequence[Case], size: int, seed: int, epoch: int, indices: Sequence[int]) -> LabelledCrop:
    """The crops (B, 1, S, S, S) of those indices of an epoch: the same whoever asks, and in whatever order."""
    crops = []
    for index in indices:
        rng = sample_rng(seed, Key(epoch, index))
        crops.append(cases[int(rng.integers(len(cases)))].crop(size, rng))
    return LabelledCrop(*(torch.stack(column) for column in zip(*crops, strict=True)))


def find_transfer_cases(section: TransferDataSection, size: int, seed: int) -> tuple[list[Case], list[Case]]:
    """The volumes to learn from and those to validate on.

    Args:
        section: where from.
        size: of a crop; phantoms are somewhat larger.
        seed: of phantoms.

    Raises:
        SamMed3DError: DATA_INDEX, there are none; CONFIG_INVALID, a target that there is not.
    """
    if section.source == "phantom":
        _check_targets(section.targets, ORGANS)
        counts = section.train_cases or 0, section.validation_cases or 0
        cases = [_phantom(section.targets, size, seed, number) for number in range(sum(counts))]
        return cases[: counts[0]], cases[counts[0] :]
    splits: dict[Split, int | None] = {"train": section.train_cases, "validation": section.validation_cases}
    train, validation = (_stored_cases(section, split)[:count] for split, count in splits.items())
    return train, validation


def _check_targets(wanted: Sequence[str], known: Collection[str]) -> None:
    absent = [name for name in wanted if name not in known]
    if absent:
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"data.targets names {', '.join(absent)}, which the data does not show.",
            f"Choose of {', '.join(known)}.",
        )


def _stored_cases(section: TransferDataSection, split: Split) -> list[Case]:
    assert section.path is not None  # which the configuration sees to
    entries = read_index(section.path)
    _check_targets(section.targets, sorted({entry.target for entry in entries}))
    images: dict[str, list[IndexEntry]] = {}
    for entry in entries:
        if entry.split == split and entry.target in section.targets:
            images.setdefault(entry.image, []).append(entry)
    if not images:
        raise SamMed3DError(
            ErrorCode.DATA_INDEX,
            f"No volume of the {split} split in {section.path} shows any of {', '.join(section.targets)}.",
            "Choose other targets; report.md there lists what there is.",
        )
    return [_stored_case(section, image, images[image]) for image in sorted(images)]


def _stored_case(section: TransferDataSection, image: str, entries: Sequence[IndexEntry]) -> Case:
    assert section.path is not None
    labels = {section.targets.index(entry.target) + 1: entry for entry in entries}
    return Case(
        image,
        StoredArray(section.path / image),
        {label: StoredArray(section.path / entry.mask) for label, entry in labels.items()},
        {label: entry.box for label, entry in labels.items()},
    )


def _phantom(targets: Sequence[str], size: int, seed: int, number: int) -> Case:
    """A torso of its own size, brightness and noise, about 1.5 crops wide."""
    rng = np.random.default_rng((seed, number))
    shape = (3 * size // 2, 3 * size // 2, 3 * size // 2)
    spacing = np.array(_FIELD_MM) / shape * rng.uniform(*_SCALE, 3)
    phantom = torso(shape, (spacing[0], spacing[1], spacing[2]))
    values = np.asarray(phantom.volume.array, dtype=np.float32)
    image = (values + 1000) * rng.uniform(*_BRIGHTNESS) + rng.normal(0, _NOISE, shape)
    found = {label: phantom.labels == phantom.names.index(name) + 1 for label, name in enumerate(targets, 1)}
    masks: dict[int, VoxelArray] = {label: mask for label, mask in found.items() if mask.any()}
    return Case(f"phantom-{number}", image.astype(np.float32), masks, {k: _box(found[k]) for k in masks})


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    voxels = np.argwhere(mask)
    (x, y, z), (u, v, w) = voxels.min(0).tolist(), voxels.max(0).tolist()
    return (x, y, z), (u, v, w)


def _tensor(values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)[None])
