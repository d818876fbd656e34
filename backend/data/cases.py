"""A case: an image, a label map on its grid, and what is known of the two; every source is a list of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.data.index import Modality, first_problem
from backend.errors import ErrorCode, SamMed3DError
from backend.io import READABLE_SUFFIXES

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class SourceCase:
    """One image with one file of labels, as a source lists it; neither file has been looked at yet.

    Attributes:
        name: of the image; cases of one source with the same name and dataset show the same volume.
        subject: who it is of, as the source says, else dataset and name.
        dataset: where it comes from.
        modality: as the source declares it; "other" where it does not.
        image: its file.
        label: the file of labels, on the image's grid.
        names: target of each label value; None where the source does not say, then each value is one.
        regions: further targets that are several label values together; none named means all but 0.
        frame: which volume of a 4-D image.
    """

    name: str
    subject: str
    dataset: str
    modality: Modality
    image: Path
    label: Path
    names: Mapping[int, str] | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    frame: int | None = None

    def targets(self, values: set[int]) -> dict[str, tuple[int, ...]]:
        """Which of the label values (not 0) that are in the file make up each target; none for an absent one."""
        present = values - {0}
        names = {value: f"label_{value}" for value in present} if self.names is None else self.names
        out: dict[str, tuple[int, ...]] = {}
        for value, name in sorted(names.items()):
            if value != 0:  # one name may stand for several values
                out[name] = out.get(name, ()) + ((value,) if value in present else ())
        for name, region in self.regions.items():
            out[name] = tuple(sorted(present.intersection(region) if region else present))
        return out

    def unnamed(self, values: set[int]) -> set[int]:
        """The label values of the file of which the source says nothing."""
        if self.names is None or any(not region for region in self.regions.values()):
            return set()
        return values - {0} - set(self.names).union(*self.regions.values())


class Failure(BaseModel):
    """An input that was set aside, and why.

    Attributes:
        dataset: of the case, or the source's name where there is no case yet.
        case: its name, or the file that is wrong.
        label: file of labels; empty where there is no case yet.
        code: of the error.
        error: what it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    case: str
    label: str
    code: str
    error: str


@dataclass(frozen=True)
class Listing:
    """What a source holds: its cases, in a fixed order, and what in it could not even be listed."""

    cases: tuple[SourceCase, ...]
    failures: tuple[Failure, ...] = ()


# Words of a declared modality or of a channel's name; the first that is known decides ("PET/CT" is PET).
_MODALITY_WORDS: dict[str, Modality] = {
    **dict.fromkeys(("ct", "cta", "cect", "ncct", "ldct"), "CT"),
    **dict.fromkeys(("mr", "mri", "mra", "cmr", "t1", "t1w", "t1c", "t1n", "t1ce", "t1gd", "t1wce"), "MR"),
    **dict.fromkeys(("t2", "t2w", "t2f", "flair", "dwi", "adc", "lge", "bssfp", "pd", "pdw", "swi", "dce"), "MR"),
    **dict.fromkeys(("pet", "fdg", "psma", "suv"), "PET"),
    **dict.fromkeys(("us", "ultrasound", "abus", "echocardiography", "tte", "tee"), "US"),
}


def modality_of(text: str) -> Modality:
    """The modality that a source declares in its own words, such as "CT angiography", "FDG-PET" or "T1w".

    Cone-beam and other images that are not in Hounsfield units have no word here: they are "other".
    """
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((_MODALITY_WORDS[word] for word in words if word in _MODALITY_WORDS), "other")


def stem_of(name: str) -> str:
    """A file's name without the ending of its format."""
    suffix = next((suffix for suffix in READABLE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file; macOS leaves hidden files with the same endings in archives."""
    return not path.name.startswith(".") and path.name.lower().endswith(READABLE_SUFFIXES)


def image_files(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their stems, sorted; none where there is no folder.

    Raises:
        SamMed3DError: DATA_SOURCE, a folder that cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    except OSError as error:
        raise bad_source(f"{folder} could not be read: {error.strerror}.", "Check its permissions.") from error
    return {stem_of(path.name): path for path in files}


def parse_json(path: Path, model: type[M]) -> M:
    """Read a JSON file of a source.

    Raises:
        SamMed3DError: DATA_SOURCE, naming the file and what is wrong in it.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise bad_source(f"{path} is not as it must be: {first_problem(error)}.", "Mend it.") from error
    except OSError as error:
        raise bad_source(f"{path} could not be read: {error.strerror}.", "Check its permissions.") from error


def bad_source(problem: str, remedy: str) -> SamMed3DError:
    """Error for a source that is not as its kind must be."""
    return SamMed3DError(ErrorCode.DATA_SOURCE, problem, remedy)


def set_aside(dataset: str, case: str, label: Path | str, error: SamMed3DError) -> Failure:
    """The record of an input that could not be used."""
    return Failure(
        dataset=dataset, case=case, label=str(label), code=str(error.code), error=f"{error.problem} {error.remedy}"
    )
