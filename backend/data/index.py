"""The index of prepared data: one line of JSON a mask."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.errors import ErrorCode, SamMed3DError
from backend.io.atomic import replacing
from backend.io.boundary import writing

Modality = Literal["CT", "MR", "PET", "US", "other"]
Split = Literal["train", "validation"]


class IndexEntry(BaseModel):
    """One binary mask of one volume, both stored on the same canonical grid (x, y, z), RAS+.

    Attributes:
        id: unique in the index, and a valid file name.
        image: file of the volume, relative to the index's folder; several masks share it.
        mask: file of the mask.
        case: the source volume's name.
        subject: who it is of; no subject is in two splits.
        dataset: name of its source.
        modality: of the image.
        target: what the mask shows, with its side where it has one.
        structure: anatomical structure (supplement, table 2).
        spacing: mm, of the stored grid.
        source_spacing: mm along the source's (x, y, z).
        affine: 4x4, from stored index to mm in RAS+.
        shape: voxels along (x, y, z).
        box: first and last voxel of the mask along each axis.
        volume_ml: of the mask.
        pretrain: whether its dataset is of the first training stage (supplement, table 1).
        finetune: whether it is of the second.
        split: train or validation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    image: str
    mask: str
    case: str
    subject: str
    dataset: str
    modality: Modality
    target: str
    structure: str
    spacing: float
    source_spacing: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]
    shape: tuple[int, int, int]
    box: tuple[tuple[int, int, int], tuple[int, int, int]]
    volume_ml: float
    pretrain: bool
    finetune: bool
    split: Split


INDEX_NAME = "index.jsonl"


def read_index(folder: Path) -> tuple[IndexEntry, ...]:
    """The entries of a prepared folder, in the order of the file.

    Raises:
        SamMed3DError: DATA_INDEX, naming the file and the line.
    """
    path = folder / INDEX_NAME
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.DATA_INDEX,
            f"{path} could not be read: {error.strerror}.",
            "Name the folder that `python -m backend.prepare` has written, and let it finish.",
        ) from error
    entries: dict[str, IndexEntry] = {}
    for number, line in enumerate(lines, 1):
        entry = _entry(path, number, line)
        if entry.id in entries:
            raise _bad_line(path, number, f"the id {entry.id} is there twice")
        entries[entry.id] = entry
    return tuple(entries.values())


def write_index(folder: Path, entries: Iterable[IndexEntry]) -> None:
    """Write the entries in the order of their ids, replacing an index whole or not at all.

    Raises:
        SamMed3DError: FILE_WRITE; an index that was there before is unchanged.
    """
    path = folder / INDEX_NAME
    text = "".join(f"{entry.model_dump_json()}\n" for entry in sorted(entries, key=lambda entry: entry.id))
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def _entry(path: Path, number: int, line: bytes) -> IndexEntry:
    try:
        return IndexEntry.model_validate_json(line)
    except ValidationError as error:
        raise _bad_line(path, number, first_problem(error)) from error


def _bad_line(path: Path, number: int, problem: str) -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.DATA_INDEX,
        f"Line {number} of {path} is not an entry of an index: {problem}.",
        "Run `python -m backend.prepare` with the same arguments again: it keeps what is finished.",
    )


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, on one line, with its place."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]
