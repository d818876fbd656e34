"""Checkpoints: what a run needs to go on exactly where it was, in files that are whole or not there.

No random state is saved, for there is none: all random numbers are keyed by seed, epoch and index
(`backend.data.sample.Key`), whatever the number of ranks.
"""

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.io.faults import refused

State = dict[str, Any]
_BEST = "best.pth"


@dataclass
class Counters:
    """Where a run is.

    Attributes:
        epoch: epochs done.
        position: samples of all ranks done in this epoch.
        step: optimizer steps, with the skipped ones.
        skipped: steps without an update, for a loss or gradient that was not finite.
        skipped_in_row: those since the last update.
        validated: epochs done at the last validation; -1 before the first.
        best: highest validation score so far.
        best_step: when that was.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    validated: int = -1
    best: float | None = None
    best_step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return asdict(self)


class Checkpoints:
    """The files `step-00000123.pth` of a run, the last few of them, and `best.pth`.

    Args:
        folder: where they lie; it is made when the first is saved.
        keep: how many are kept beside the best.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: State, step: int) -> None:
        """Write a state with its digest, then remove the oldest files.

        Args:
            state: dictionaries, lists and tuples of tensors, numbers, texts and None.
            step: the file's name.

        Raises:
            SamMed3DError: FILE_WRITE; the files that were there before are unchanged.
        """
        path = self._path(step)
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as stream:
                torch.save({"digest": content_digest(state), "state": state}, stream)
        for old in [older for older in self._steps() if _step(older) < step][self.keep - 1 :]:
            old.unlink()

    def mark_best(self, step: int) -> None:
        """Let `best.pth` be the checkpoint of that step; where a run goes on from `best.pth` alone, it is that already.

        Raises:
            SamMed3DError: FILE_WRITE.
        """
        path = self.folder / _BEST
        if path.exists() and not self._path(step).exists():
            return
        with writing(path), replacing(path) as temporary:
            try:
                os.link(self._path(step), temporary)
            except OSError:  # a file system without links
                shutil.copyfile(self._path(step), temporary)

    def load_newest(self) -> State | None:
        """The state of the newest file that is whole, on the CPU; None where there are no files.

        Raises:
            SamMed3DError: RUN_STATE; there are files, and none of them can be used.

        Warns:
            SamMed3DWarning: newer ones are damaged.
        """
        candidates = [*self._steps(), *self.folder.glob(_BEST)]
        for path in candidates:
            state = _read(path)
            if state is not None:
                return state
            warnings.warn(f"{path} is damaged; the checkpoint before it is used.", SamMed3DWarning, stacklevel=2)
        if candidates:
            raise SamMed3DError(
                ErrorCode.RUN_STATE,
                f"None of the {len(candidates)} checkpoints in {self.folder} is whole.",
                "Copy them anew from where they came, or choose another run.out to begin again.",
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pth"

    def _steps(self) -> list[Path]:
        """The newest first."""
        files = [path for path in self.folder.glob("step-*.pth") if re.fullmatch(r"step-\d{8,}\.pth", path.name)]
        return sorted(files, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def content_digest(content: object) -> str:
    """SHA-256 over names, values, and the types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for part in _parts(content):
        digest.update(part)
    return digest.hexdigest()


def _parts(content: object) -> Iterator[bytes | memoryview]:
    if isinstance(content, Tensor):
        tensor = content.detach().cpu().contiguous()
        yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(content, dict):
        yield f"{len(content)} items".encode()
        for key, value in content.items():
            yield repr(key).encode()
            yield from _parts(value)
    elif isinstance(content, list | tuple):
        yield f"{type(content).__name__} of {len(content)}".encode()
        for value in content:
            yield from _parts(value)
    else:
        yield repr(content).encode()


def _read(path: Path) -> State | None:
    """The state in a file, or None if it is not as it was saved."""
    try:
        with path.open("rb") as stream:
            return _parse(stream)
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_READ, f"{path} could not be read: {error}.", "Check its permissions and the drive."
        ) from error


def _parse(stream: BinaryIO) -> State | None:
    try:
        content = torch.load(stream, map_location="cpu", weights_only=True)
        state: State = content["state"]
        whole = content["digest"] == content_digest(state)
    except Exception as error:  # flipped bits make torch raise nearly anything
        if (
            refused(error) or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        ):  # as torch says it
            raise
        return None  # whatever it is, the file is of no use
    return state if whole else None
