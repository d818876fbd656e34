"""Segmenters that know the answer, or refuse to give one, and a small case on disk."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import nibabel as nib
import numpy as np
import numpy.typing as npt

from backend.evaluation.metrics import Bools
from backend.volume import Volume


class Scripted:
    """Answers with the masks it was given, one after the other, the last one for ever; records its prompts."""

    def __init__(self, *answers: Bools) -> None:
        self.answers = answers
        self.clicks: list[tuple[tuple[float, ...], bool]] = []
        self.boxes: list[tuple[list[float], list[float]]] = []
        self.given = 0

    def start(self, _volume: Volume) -> None:
        self.given = 0

    def click(self, point: npt.ArrayLike, positive: bool) -> Bools:
        self.clicks.append((tuple(np.asarray(point).tolist()), positive))
        return self._next()

    def box(self, corner: npt.ArrayLike, opposite: npt.ArrayLike) -> Bools:
        self.boxes.append((np.asarray(corner).tolist(), np.asarray(opposite).tolist()))
        return self._next()

    def _next(self) -> Bools:
        self.given += 1
        return self.answers[min(self.given, len(self.answers)) - 1].copy()


class Broken(Scripted):
    """Fails at the first click."""

    def click(self, _point: npt.ArrayLike, _positive: bool) -> Bools:
        raise ZeroDivisionError("no answer")


@dataclass(frozen=True)
class Killer:
    """A case that takes its process with it, as one that needs too much memory does."""

    name: str = "killer"
    files: tuple[Path, ...] = ()
    known: str = ""

    def open(self) -> NoReturn:
        """Die."""
        os._exit(9)


@dataclass(frozen=True)
class Marking:
    """A case that leaves a file when it is opened, and takes a while to fail."""

    name: str
    mark: Path
    files: tuple[Path, ...] = ()
    known: str = ""

    def open(self) -> NoReturn:
        """Leave the file."""
        self.mark.touch()
        time.sleep(0.3)
        raise ZeroDivisionError("no case")


def cube(shape: Sequence[int] = (20, 20, 20), start: int = 5, stop: int = 15) -> Bools:
    """A cube in an array."""
    mask = np.zeros(tuple(shape), dtype=bool)
    mask[(slice(start, stop),) * 3] = True
    return mask


def write_case(
    folder: Path,
    image: npt.NDArray[np.int16],
    labels: npt.NDArray[np.uint8],
    affine: npt.ArrayLike,
    names: Mapping[int, str],
    **meta: str,
) -> None:
    """CASE/image.nii.gz, label.nii.gz and meta.json."""
    folder.mkdir(parents=True)
    for name, array in (("image", image), ("label", labels)):
        nib.Nifti1Image(array, np.asarray(affine)).to_filename(folder / f"{name}.nii.gz")
    described = {"modality": "CT", "labels": {str(value): {"name": name} for value, name in names.items()}, **meta}
    (folder / "meta.json").write_text(json.dumps(described))
