"""What is found out about a job's cases while it is worked on."""

from dataclasses import dataclass, field

from backend.data.cases import Failure, SourceCase, set_aside
from backend.data.index import IndexEntry
from backend.data.jobs import Decision
from backend.data.taxonomy import structure_of
from backend.errors import ErrorCode, SamMed3DError

# These concern the whole run, not one case.
_FATAL = {ErrorCode.FILE_WRITE, ErrorCode.DEPENDENCY_MISSING}


@dataclass
class Findings:
    """The lists that a `JobResult` is made of.

    Attributes:
        entries: of masks that are stored.
        decisions: on targets.
        failures: cases that were set aside.
    """

    entries: list[IndexEntry] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def decide(
        self, case: SourceCase, target: str, step: str, *, kept: bool, reason: str, number: float | None = None
    ) -> None:
        """Record what becomes of a target."""
        self.decisions.append(
            Decision(
                dataset=case.dataset,
                case=case.name,
                modality=case.modality,
                target=target,
                structure=structure_of(target, case.modality),
                step=step,
                kept=kept,
                reason=reason,
                number=number,
            )
        )

    def fail(self, case: SourceCase, error: Exception) -> None:
        """Record a case that could not be prepared; trouble that is not the case's own is raised again."""
        if isinstance(error, MemoryError):
            error = SamMed3DError(
                ErrorCode.VOLUME_TOO_LARGE,
                f"There was not enough memory to prepare {case.image} with {case.label}.",
                "Free memory or use fewer workers, and run the same command again.",
            )
        if not isinstance(error, SamMed3DError):  # one odd file among thousands must not end the run
            error = SamMed3DError(
                ErrorCode.DATA_SOURCE,
                f"{case.image} with {case.label} could not be prepared: {type(error).__name__}: {error}.",
                "Look at the two files in a viewer; if they are sound, please report this.",
            )
        if error.code in _FATAL:
            raise error
        self.failures.append(set_aside(case.dataset, case.name, case.label, error))
