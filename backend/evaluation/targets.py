"""What is segmented: the targets of a folder of cases, or of prepared data with an index."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from backend.data.cases import SourceCase
from backend.data.index import INDEX_NAME, IndexEntry, Modality, read_index
from backend.data.labelmap import read_labels
from backend.data.sources import read_cases
from backend.data.store import StoredArray
from backend.data.taxonomy import is_seen, structure_of
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.metrics import Bools
from backend.io import read_volume
from backend.volume import Volume

Split = Literal["train", "validation", "all"]


@dataclass(frozen=True)
class Target:
    """One binary mask of a case.

    Args:
        case: the case's name.
        subject: who it is of.
        dataset: where the case comes from.
        modality: of the image.
        name: what the mask shows.
        structure: anatomical structure (supplement, table 2).
        seen: whether the published training set has such targets (supplement, tables 1 and 2).
        key: which mask of the case: its name in a label map, or the file of a stored mask.
        volume_ml: of the mask.
    """

    case: str
    subject: str
    dataset: str
    modality: Modality
    name: str
    structure: str
    seen: bool
    key: str
    volume_ml: float


class OpenCase(Protocol):
    """A case that was read."""

    @property
    def volume(self) -> Volume:
        """The image."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """All of its targets."""

    def mask(self, target: Target) -> Bools:
        """The true mask (X, Y, Z) of one of them."""


class Case(Protocol):
    """A case that can be read, in any process."""

    @property
    def name(self) -> str:
        """Unique among the cases."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is read from."""

    @property
    def known(self) -> str:
        """All that is known of it beside these."""

    def open(self) -> OpenCase:
        """Read it. Raises SamMed3DError."""


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """A volume and a label map on its grid; a target is one label of it, or several together."""

    volume: Volume
    targets: tuple[Target, ...]
    labels: npt.NDArray[Any] = field(repr=False)
    values: Mapping[str, tuple[int, ...]]

    def mask(self, target: Target) -> Bools:
        """The true mask (X, Y, Z) of one target."""
        found: Bools = np.isin(self.labels, self.values[target.key])
        return found


@dataclass(frozen=True)
class FileCase:
    """A case of files: an image and a label map."""

    name: str
    source: SourceCase

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and label map."""
        return self.source.image, self.source.label

    @property
    def known(self) -> str:
        """All that its source says."""
        return repr(self.source)

    def open(self) -> LabelledCase:
        """Read image and label map, which must be on one grid.

        Raises:
            SamMed3DError: one cannot be read, their grids differ, or the labels are none.
        """
        source = self.source
        volume = read_volume(source.image, source.frame)
        array = np.asarray(read_labels(source.label, volume).array)
        voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
        found, counts = np.unique(array, return_counts=True)
        voxels = dict(zip(found.tolist(), counts.tolist(), strict=True))
        values = {name: labels for name, labels in source.targets(set(voxels)).items() if labels}
        targets = tuple(
            self._target(name, voxel_ml * sum(voxels[label] for label in labels)) for name, labels in values.items()
        )
        return LabelledCase(volume, targets, array, values)

    def _target(self, name: str, volume_ml: float) -> Target:
        source = self.source
        return Target(
            case=self.name,
            subject=source.subject,
            dataset=source.dataset,
            modality=source.modality,
            name=name,
            structure=structure_of(name, source.modality),
            seen=is_seen(name, source.modality, source.dataset),
            key=name,
            volume_ml=volume_ml,
        )


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A volume and its masks in the chunked store."""

    volume: Volume
    targets: tuple[Target, ...]
    folder: Path

    def mask(self, target: Target) -> Bools:
        """The true mask (X, Y, Z) of one target."""
        stored: Bools = read_stored(self.folder / target.key) != 0
        return stored


@dataclass(frozen=True)
class IndexCase:
    """The entries of an index that share an image."""

    name: str
    folder: Path
    entries: tuple[IndexEntry, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and the masks."""
        return self.folder / self.entries[0].image, *(self.folder / entry.mask for entry in self.entries)

    @property
    def known(self) -> str:
        """All that the index says."""
        return repr(self.entries)

    def open(self) -> StoredCase:
        """Read the image. Raises SamMed3DError where it is damaged."""
        first = self.entries[0]
        volume = Volume(read_stored(self.folder / first.image), np.array(first.affine))
        return StoredCase(volume, tuple(map(self._target, self.entries)), self.folder)

    def _target(self, entry: IndexEntry) -> Target:
        return Target(
            case=self.name,
            subject=entry.subject,
            dataset=entry.dataset,
            modality=entry.modality,
            name=entry.target,
            structure=entry.structure,
            seen=is_seen(entry.target, entry.modality, entry.dataset),
            key=entry.mask,
            volume_ml=entry.volume_ml,
        )


def read_stored(path: Path) -> npt.NDArray[Any]:
    """The whole of a stored array.

    Raises:
        SamMed3DError: DATA_CORRUPT.
    """
    whole = slice(None)
    return StoredArray(path)[whole, whole, whole]


def find_cases(data: Path, split: Split = "validation") -> tuple[Case, ...]:
    """The cases of a prepared folder (of one split), or of a folder of cases.

    Raises:
        SamMed3DError: DATA_SOURCE or DATA_INDEX: there are none.
    """
    index = data if data.name == INDEX_NAME else data / INDEX_NAME
    if index.is_file():
        return _indexed(index.parent, split)
    sources = read_cases(data)
    # Cases of one source may share a name: of two datasets, or one for each category or file of labels.
    names = _unique(
        [source.name for source in sources],
        ["/".join([source.dataset, *source.regions]) for source in sources],
        [source.label.name for source in sources],
    )
    return tuple(FileCase(name, source) for name, source in zip(names, sources, strict=True))


def _unique(names: list[str], *more_words: list[str]) -> list[str]:
    """The names, with further words before those that occur several times, and at last a number."""
    for more in (*more_words, [str(number) for number in range(len(names))]):
        counts = Counter(names)
        names = [f"{word}/{name}" if counts[name] > 1 else name for name, word in zip(names, more, strict=True)]
    return names


def _indexed(folder: Path, split: Split) -> tuple[Case, ...]:
    entries = [entry for entry in read_index(folder) if split in ("all", entry.split)]
    if not entries:
        raise SamMed3DError(
            ErrorCode.DATA_INDEX,
            f"{folder / INDEX_NAME} has no entry of the split {split!r}.",
            "Choose another --split, or prepare data with a held-out part.",
        )
    entries.sort(key=lambda entry: (entry.image, entry.id))
    groups = [tuple(group) for _, group in groupby(entries, key=lambda entry: entry.image)]
    # Two datasets may use one name, and a volume may have come in several files.
    names = _unique([f"{first.dataset}/{first.case}" for first, *_ in groups], [first.image for first, *_ in groups])
    return tuple(IndexCase(name, folder, group) for name, group in zip(names, groups, strict=True))


def choose_cases(cases: Sequence[Case], names: Sequence[str], limit: int | None) -> tuple[Case, ...]:
    """The cases of those names (all, if none is named), at most `limit`.

    Raises:
        SamMed3DError: DATA_SOURCE, naming what there is not.
    """
    known = {case.name: case for case in cases}
    missing = [name for name in names if name not in known]
    if missing:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"There is no case {', '.join(missing)}.",
            f"Choose among {', '.join(list(known)[:20])}{', ...' if len(known) > 20 else ''}.",
        )
    return tuple(known[name] for name in dict.fromkeys(names or known))[:limit]


def choose_targets(
    targets: Sequence[Target], min_volume_ml: float, per_case: int | None, seed: int
) -> Iterator[Target]:
    """The targets that are large enough, and of those at most `per_case`, drawn by the seed; in their own order."""
    large = [target for target in targets if target.volume_ml >= min_volume_ml]
    if per_case is None or len(large) <= per_case:
        return iter(large)
    drawn = rng_of(seed, "targets", large[0].case).choice(len(large), per_case, replace=False)
    return iter([large[i] for i in sorted(drawn.tolist())])


def rng_of(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on nothing but a seed and names, on every machine."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng((seed, int.from_bytes(digest[:8], "big")))
