"""What a run measures, as it is kept: one file a case, so that a run which is stopped goes on where it was."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, ValidationError

from backend.data.jobs import file_name, stamps_of
from backend.device import Precision
from backend.evaluation.protocol import Protocol, Trial
from backend.evaluation.targets import Target
from backend.io.atomic import replacing
from backend.io.boundary import writing


class Record(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(Record):
    """Everything that the measured values depend on, beside the files.

    Attributes:
        models: what is compared; differences are to the first.
        protocol: which simulated user.
        clicks: after how many clicks it is measured.
        repeats: trials a target, with other clicks.
        seed: of clicks, of the choice of targets, of random weights.
        min_volume_ml: smaller targets are left out.
        per_case: at most so many targets a case.
        tolerance_mm: of the surface distance.
        device: where networks run.
        precision: of networks.
    """

    models: tuple[str, ...]
    protocol: Protocol = "paper"
    clicks: tuple[int, ...] = (1, 3, 5, 10)
    repeats: int = 1
    seed: int = 0
    min_volume_ml: float = 1.0
    per_case: int | None = None
    tolerance_mm: float = 2.0
    device: str = "auto"
    precision: Precision = "auto"


class Row(Record):
    """One target, model, repeat and number of clicks.

    Attributes:
        model: what answered.
        case: the case's name.
        subject: who it is of.
        dataset: where the case comes from.
        modality: of the image.
        target: what the mask shows.
        key: which mask of the case.
        structure: anatomical structure.
        seen: whether training, as published, saw such targets and images.
        volume_ml: of the mask.
        repeat: which trial, from 0.
        clicks: how many were given; 0 after a box alone.
        dice: 0 to 1.
        nsd: normalised surface distance, 0 to 1.
        seconds_first: of the first answer, with all that a new volume costs.
        seconds_next: mean of the later answers so far; None if there were none.
        seconds_total: of all answers so far.
    """

    model: str
    case: str
    subject: str
    dataset: str
    modality: str
    target: str
    key: str
    structure: str
    seen: bool
    volume_ml: float
    repeat: int
    clicks: int
    dice: float
    nsd: float
    seconds_first: float
    seconds_next: float | None
    seconds_total: float


class Failure(Record):
    """What could not be measured: a model on a target, or (both None) a whole case."""

    case: str
    model: str | None
    target: str | None
    error: str


class Picture(Record):
    """A bad result, drawn: three slices with the true outline, the mask and the clicks."""

    model: str
    case: str
    target: str
    clicks: int
    dice: float
    png: Base64Bytes


class CaseResult(Record):
    """Everything measured on one case.

    Attributes:
        stamp: of the settings and files that it was measured with.
        case: its name.
        rows: what was measured.
        failures: what could not be.
        left_out: targets that were too small or not drawn.
        pictures: the worst results of each model.
        notes: warnings.
        seconds: that the case took in all.
        jobs: processes that shared the machine.
    """

    stamp: str
    case: str
    rows: tuple[Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: int = 0
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    jobs: int = 1


def rows_of(target: Target, model: str, repeat: int, trial: Trial) -> list[Row]:
    """One row for each answer of a trial whose surface distance was measured."""
    common: dict[str, Any] = {
        "model": model,
        "case": target.case,
        "subject": target.subject,
        "dataset": target.dataset,
        "modality": target.modality,
        "target": target.name,
        "key": target.key,
        "structure": target.structure,
        "seen": target.seen,
        "volume_ml": target.volume_ml,
        "repeat": repeat,
    }
    rows, seconds = [], []
    for answer in trial.answers:
        seconds += [] if answer.seconds is None else [answer.seconds]
        if answer.nsd is None:
            continue
        rows.append(
            Row(
                **common,
                clicks=answer.clicks,
                dice=answer.dice,
                nsd=answer.nsd,
                seconds_first=seconds[0],
                seconds_next=sum(seconds[1:]) / len(seconds[1:]) if seconds[1:] else None,
                seconds_total=sum(seconds),
            )
        )
    return rows


def stamp_of(settings: Settings, files: Iterable[Path], known: str = "") -> str:
    """A digest of the settings, of the size and time of change of files, and of what is known beside them."""
    stats = [(str(path), stamps_of(path)) for path in files]
    return hashlib.sha256(json.dumps([settings.model_dump(), stats, known]).encode()).hexdigest()


def case_path(out: Path, case: str) -> Path:
    """The file of a case's result, whatever characters its name has."""
    return out / "cases" / f"{file_name(case)}.json"


def load_result(out: Path, case: str, stamp: str) -> CaseResult | None:
    """What is kept of a case; None if there is nothing, or it was measured with other settings or files."""
    try:
        result = CaseResult.model_validate_json(case_path(out, case).read_bytes())
    except (OSError, ValidationError):  # nothing there, or of another version: it is measured anew
        return None
    return result if result.stamp == stamp else None


def save_result(out: Path, result: CaseResult) -> None:
    """Keep a case's result.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    write_text(case_path(out, result.case), result.model_dump_json())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def json_text(content: Mapping[str, Any]) -> str:
    """Strict JSON: a number that is not finite is a defect, not a NaN in the file."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
