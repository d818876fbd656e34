"""Which masks train and which validate: by subject, by whole datasets and by whole modalities."""

import hashlib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from backend.data.index import IndexEntry, Modality


class SplitConfig(BaseModel):
    """What is held out for validation.

    Attributes:
        share: of the subjects.
        datasets: held out as a whole.
        modalities: held out as a whole; the paper holds out all ultrasound.
        seed: another one gives another choice of subjects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(ge=0, le=1)] = 0.1
    datasets: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ("US",)
    seed: Annotated[int, Field(ge=0)] = 0


def assign_splits(entries: Iterable[IndexEntry], config: SplitConfig) -> tuple[IndexEntry, ...]:
    """The entries with their splits; no subject is in both.

    Chosen by a hash of the subject, so that more data never moves a subject from one split to the other. One
    image of a held-out dataset or modality takes all images of its subject with it.
    """
    entries = tuple(entries)
    held_out = {
        entry.subject
        for entry in entries
        if entry.dataset in config.datasets
        or entry.modality in config.modalities
        or _fraction(entry.subject, config.seed) < config.share
    }
    return tuple(
        entry.model_copy(update={"split": "validation" if entry.subject in held_out else "train"}) for entry in entries
    )


def _fraction(subject: str, seed: int) -> float:
    """A number from 0 to below 1, the same for a subject on every machine."""
    digest = hashlib.sha256(f"{seed} {subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
