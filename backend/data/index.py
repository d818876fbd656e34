"""The index of prepared data: one line of JSON a mask."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

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
    raise NotImplementedError(folder)
