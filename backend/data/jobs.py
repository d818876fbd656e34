"""What a worker is asked to prepare and what it answers."""

import glob
import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from backend.data.cases import Failure, SourceCase
from backend.data.cleaning import CleaningConfig
from backend.data.index import IndexEntry, Modality
from backend.data.taxonomy import Structure

# Files that hold no voxels themselves, but name one that does.
_HEADERS = (".mhd", ".nhdr")


class PreparationConfig(BaseModel):
    """What the stored files depend on, besides the sources.

    Attributes:
        spacing: mm, of the stored grid.
        cleaning: thresholds of the cleaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.5
    cleaning: CleaningConfig = CleaningConfig()


class Decision(BaseModel):
    """What became of one target in one step.

    Attributes:
        dataset: of the case.
        case: the volume's name.
        modality: of the volume.
        target: the target.
        structure: its anatomical structure.
        step: labels, background, components, sides, size, grid or stored.
        kept: whether it goes on.
        reason: a clause.
        number: what the step goes by: ml, mm or a share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    case: str
    modality: Modality
    target: str
    structure: Structure
    step: str
    kept: bool
    reason: str
    number: float | None = None


class JobResult(BaseModel):
    """What came of a job: the content of the file that says that it is finished.

    Attributes:
        digest: of everything that it depends on.
        entries: of its stored masks; their split is set once all subjects are known.
        decisions: on each target.
        failures: cases that were set aside.
        warnings: what was assumed while reading its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    entries: tuple[IndexEntry, ...] = ()
    decisions: tuple[Decision, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """The cases that show one volume: one image, as one file or as equal copies, and its files of labels."""

    dataset: str
    name: str
    cases: tuple[SourceCase, ...]

    @property
    def id(self) -> str:
        """A file name that no other job has."""
        return file_name(self.dataset, self.name)

    def digest(self, config: PreparationConfig) -> str:
        """Of the settings, of what the source says, and of the files' sizes and times."""
        files = [stamps_of(path) for case in self.cases for path in (case.image, case.label)]
        content = repr(([asdict(case) for case in self.cases], files, config.model_dump_json()))
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()

    def result_file(self, out: Path) -> Path:
        """The file that says that it is finished."""
        return out / "cases" / f"{self.id}.json"


def file_name(*parts: str) -> str:
    """A valid file name for a dataset, case and target; different parts never share one, on any file system."""
    plain = [re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-")[:60] for part in parts]
    name = ".".join(plain)
    if list(parts) != plain:  # something was lost
        name += "-" + hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:8]
    return name


def stamps_of(path: Path) -> list[tuple[str, tuple[int, int] | None]]:
    """Sizes and times of change of a file and of those that hold its voxels, by their names.

    Those lie beside a header, or are the slices of a DICOM series. None for one that cannot be looked at.
    """
    try:
        suffix = path.suffix.lower()
        if suffix in _HEADERS:
            parts = sorted(path.parent.glob(f"{glob.escape(path.stem)}*"))
        elif path.is_dir() or suffix == ".dcm":
            parts = sorted((path if path.is_dir() else path.parent).glob("*"))
        else:
            parts = [path]
    except (OSError, ValueError):  # no permission, or a name that no file system has: its reader will tell
        parts = [path]
    return [(part.name, _stamp(part)) for part in parts]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
