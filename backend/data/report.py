"""The report of a preparation: every decision and every case that was set aside, with counts."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from backend.data.cases import Failure
from backend.data.index import IndexEntry
from backend.data.jobs import Decision, JobResult
from backend.io.atomic import replacing
from backend.io.boundary import writing

REPORT_NAME = "report.md"
# The Markdown report is for reading; the JSON one has all.
LISTED_FAILURES = 100


class Count(BaseModel):
    """What became of the targets of one dataset, modality or structure.

    Attributes:
        stored: masks in the index.
        train: of these.
        validation: of these.
        dropped: targets by the step that dropped them.
    """

    model_config = ConfigDict(frozen=True)

    stored: int
    train: int
    validation: int
    dropped: dict[str, int]


class Report(BaseModel):
    """Everything that a preparation found and did.

    Attributes:
        volumes: with a mask in the index.
        subjects: with one.
        total: counts of all targets.
        by_dataset: counts.
        by_modality: counts.
        by_structure: counts.
        failures: what was set aside.
        warnings: what was assumed while reading.
        decisions: on every target; one may have several.
    """

    model_config = ConfigDict(frozen=True)

    volumes: int
    subjects: int
    total: Count
    by_dataset: dict[str, Count]
    by_modality: dict[str, Count]
    by_structure: dict[str, Count]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    decisions: tuple[Decision, ...]

    @classmethod
    def of(cls, entries: Sequence[IndexEntry], results: Iterable[JobResult], failures: Sequence[Failure]) -> "Report":
        """The report of an index and what it came from, in an order that does not depend on who was first."""
        results = list(results)
        decisions = [decision for result in results for decision in result.decisions]
        decisions.sort(key=lambda one: (one.dataset, one.case))  # stable: a target's steps stay in their order
        return cls(
            volumes=len({(entry.dataset, entry.case) for entry in entries}),
            subjects=len({entry.subject for entry in entries}),
            total=_count(entries, decisions),
            by_dataset=_counts("dataset", entries, decisions),
            by_modality=_counts("modality", entries, decisions),
            by_structure=_counts("structure", entries, decisions),
            failures=tuple(
                sorted(
                    [*failures, *(failure for result in results for failure in result.failures)],
                    key=lambda one: (one.dataset, one.case, one.label),
                )
            ),
            warnings=tuple(sorted({warning for result in results for warning in result.warnings})),
            decisions=tuple(decisions),
        )


def _counts(
    by: Literal["dataset", "modality", "structure"], entries: Sequence[IndexEntry], decisions: Sequence[Decision]
) -> dict[str, Count]:
    groups: dict[str, tuple[list[IndexEntry], list[Decision]]] = {}
    for entry in entries:
        groups.setdefault(getattr(entry, by), ([], []))[0].append(entry)
    for decision in decisions:
        groups.setdefault(getattr(decision, by), ([], []))[1].append(decision)
    return {name: _count(*groups[name]) for name in sorted(groups)}


def _count(entries: Sequence[IndexEntry], decisions: Sequence[Decision]) -> Count:
    splits = Counter(entry.split for entry in entries)
    dropped = Counter(decision.step for decision in decisions if not decision.kept)
    return Count(
        stored=len(entries),
        train=splits["train"],
        validation=splits["validation"],
        dropped=dict(sorted(dropped.items())),
    )


def write_report(out: Path, report: Report) -> None:
    """Write report.json (all of it), report.md (for reading) and decisions.csv (for a spreadsheet).

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    texts = {
        "report.json": report.model_dump_json(indent=1),
        REPORT_NAME: _markdown(report),
        "decisions.csv": _csv(report.decisions),
    }
    for name, text in texts.items():
        with writing(out / name), replacing(out / name) as temporary:
            temporary.write_bytes(text.encode(errors="replace"))


def _csv(decisions: Sequence[Decision]) -> str:
    text = io.StringIO(newline="")
    rows: Any = csv.DictWriter(text, list(Decision.model_fields))
    rows.writeheader()
    rows.writerows(decision.model_dump() for decision in decisions)
    return text.getvalue()


def _markdown(report: Report) -> str:
    tables = {"Dataset": report.by_dataset, "Modality": report.by_modality, "Structure": report.by_structure}
    lines = [
        "# Prepared data",
        "",
        f"{report.total.stored} masks of {report.volumes} volumes of {report.subjects} subjects; "
        f"{sum(report.total.dropped.values())} targets dropped; {len(report.failures)} cases set aside.",
    ]
    for name, counts in tables.items():
        lines += _table(name, {**counts, "all": report.total})
    lines += ["", "## Set aside", ""]
    lines += [f"- {failure.dataset}: {failure.case}: {failure.error}" for failure in report.failures[:LISTED_FAILURES]]
    lines += [] if report.failures else ["- nothing"]
    if len(report.failures) > LISTED_FAILURES:
        lines.append(f"- and {len(report.failures) - LISTED_FAILURES} more, listed in report.json")
    lines += ["", "## Assumed", "", *(f"- {warning}" for warning in report.warnings or ["nothing"])]
    return "\n".join(lines) + "\n"


def _table(name: str, counts: dict[str, Count]) -> list[str]:
    steps = sorted({step for count in counts.values() for step in count.dropped})
    heads = [name, "stored", "train", "validation", *(f"dropped: {step}" for step in steps)]
    lines = ["", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for group, count in counts.items():
        numbers = [count.stored, count.train, count.validation, *(count.dropped.get(step, 0) for step in steps)]
        lines.append(f"| {group} | {' | '.join(map(str, numbers))} |")
    return lines
