"""From sources to jobs."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from backend.data.cases import Failure, SourceCase, bad_source
from backend.data.index import Modality
from backend.data.jobs import Job
from backend.data.sources import read_source
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning


class Declarations(BaseModel):
    """What the user says of cases whose source does not, or says it wrongly.

    Attributes:
        modalities: pattern of datasets' names (as of a shell) and their modality; the first that fits counts.
        subject: regular expression; the first group in a case's name, or all that fits, tells the subject.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[tuple[str, Modality], ...] = ()
    subject: str | None = None

    @field_validator("subject")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    def fit(self, name: str) -> re.Match[str] | None:
        """Where the expression for subjects fits a case's name."""
        return re.search(self.subject, name) if self.subject is not None else None

    def applied(self, case: SourceCase) -> SourceCase:
        """The case with what is declared of it."""
        declared = (modality for pattern, modality in self.modalities if fnmatchcase(case.dataset, pattern))
        case = replace(case, modality=next(declared, case.modality))
        found = self.fit(case.name)
        if found is None:
            return case
        return replace(case, subject=f"{case.dataset}/{found[found.re.groups and 1] or case.name}")


def plan(sources: Sequence[Path], declarations: Declarations) -> tuple[list[Job], list[Failure]]:
    """The jobs of all sources, and what could not even be listed.

    Raises:
        SamMed3DError: DATA_SOURCE, for a source that cannot be read, or two with the same case; CONFIG_INVALID, the
            expression for subjects fits none.

    Warns:
        SamMed3DWarning: for each dataset of which no modality is known, each declaration that fits no dataset, and
            cases that the expression for subjects does not fit.
    """
    jobs: dict[str, Job] = {}
    origin: dict[str, Path] = {}
    failures: list[Failure] = []
    for source in sources:
        listing = read_source(source)
        failures += listing.failures
        groups: dict[tuple[str, str], list[SourceCase]] = {}
        for case in map(declarations.applied, listing.cases):
            groups.setdefault((case.dataset, case.name), []).append(case)
        for (dataset, name), cases in groups.items():
            job = Job(dataset, name, tuple(cases))
            if job.id in jobs:
                raise bad_source(
                    f"{origin[job.id]} and {source} both hold a case {name} of the dataset {dataset}.",
                    "Name each source once, and give different datasets different names.",
                )
            jobs[job.id], origin[job.id] = job, source
    _warn_undeclared(jobs)
    _warn_unused(jobs, declarations)
    _check_subjects(jobs, declarations)
    return [jobs[key] for key in sorted(jobs)], failures


def _warn_undeclared(jobs: dict[str, Job]) -> None:
    undeclared = Counter(job.dataset for job in jobs.values() if job.cases[0].modality == "other")
    for dataset, count in sorted(undeclared.items()):
        warnings.warn(
            f"The modality of {count} volumes of the dataset {dataset} is not known; CT among them is not clamped. "
            f'Declare it, such as by --modality "{dataset}=CT".',
            SamMed3DWarning,
            stacklevel=3,
        )


def _warn_unused(jobs: dict[str, Job], declarations: Declarations) -> None:
    datasets = sorted({job.dataset for job in jobs.values()})
    for pattern, modality in declarations.modalities:
        if not any(fnmatchcase(dataset, pattern) for dataset in datasets):
            warnings.warn(
                f'No dataset is called "{pattern}", whose modality was said to be {modality}; '
                f"there are {', '.join(datasets) or 'none'}.",
                SamMed3DWarning,
                stacklevel=3,
            )


def _check_subjects(jobs: dict[str, Job], declarations: Declarations) -> None:
    """Images of one person that are taken for several people's would be trained on and validated with."""
    if declarations.subject is None:
        return
    unfit = [job.name for job in jobs.values() if declarations.fit(job.name) is None]
    if not unfit:
        return
    problem = (
        f'The expression for subjects "{declarations.subject}" fits {len(jobs) - len(unfit)} of {len(jobs)} cases; '
        f"it does not fit {', '.join(sorted(unfit)[:3])}"
    )
    if len(unfit) == len(jobs):
        raise SamMed3DError(ErrorCode.CONFIG_INVALID, f"{problem}.", "Correct it; lower and upper case differ.")
    warnings.warn(f"{problem}: each of these counts as a subject of its own.", SamMed3DWarning, stacklevel=3)
