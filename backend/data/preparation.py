"""Preparing one volume: clean its targets, then store them with it. This is what workers run."""

import hashlib
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.data.cases import SourceCase
from backend.data.cleaning import CleaningConfig, Mask, Target, Verdict, clean, too_empty
from backend.data.findings import Findings
from backend.data.jobs import Job, JobResult, PreparationConfig
from backend.data.labelmap import LabelMap, read_labels
from backend.data.storing import Place, store_volume
from backend.errors import SamMed3DWarning
from backend.geometry import canonical_volume
from backend.io import read_volume
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.volume import Volume

CaseTarget = tuple[SourceCase, Target]


def prepare_job(job: Job, out: Path, config: PreparationConfig) -> JobResult:
    """Prepare a job's cases and write its result, last and atomically.

    Raises:
        SamMed3DError: the output cannot be written, or a package is missing. What is wrong with an input sets
            its case aside.
    """
    digest = job.digest(config)  # before the files are read: the next run sees a change in between
    path = job.result_file(out)
    with writing(path):
        path.unlink(missing_ok=True)  # an earlier result must not outlive the files that it was written for
    findings = Findings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SamMed3DWarning)
        for number, cases in enumerate(_same_image(job.cases)):
            _prepare_image(cases, Place(out, job.id, number), config, findings)
    result = JobResult(
        digest=digest,
        entries=tuple(findings.entries),
        decisions=tuple(findings.decisions),
        failures=tuple(findings.failures),
        warnings=tuple(str(one.message) for one in caught if issubclass(one.category, SamMed3DWarning)),
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(result.model_dump_json(), encoding="utf-8")
    return result


def _same_image(cases: tuple[SourceCase, ...]) -> list[list[SourceCase]]:
    """The cases in groups with the same image; copies of a file are found by their content."""
    groups: dict[Any, list[SourceCase]] = {}
    for case in cases:
        key: Any = case.image
        if len(cases) > 1 and case.image.is_file():
            with suppress(OSError), case.image.open("rb") as file:  # what cannot be read is set aside by its reader
                key = hashlib.file_digest(file, "sha256").hexdigest()
        groups.setdefault((key, case.frame, case.modality), []).append(case)
    return list(groups.values())


def _prepare_image(cases: list[SourceCase], place: Place, config: PreparationConfig, findings: Findings) -> None:
    """Prepare all the cases of one image, or set aside those that cannot be."""
    entries, decisions, failures = len(findings.entries), len(findings.decisions), len(findings.failures)
    try:
        _prepare_sound(cases, place, config, findings)
    except Exception as error:  # one bad case must not end thousands; it is reported
        del findings.entries[entries:], findings.decisions[decisions:], findings.failures[failures:]
        for case in cases:
            findings.fail(case, error)


def _prepare_sound(cases: list[SourceCase], place: Place, config: PreparationConfig, findings: Findings) -> None:
    """The cases of an image, those without labels that can be read set aside."""
    image = read_volume(cases[0].image, cases[0].frame)
    targets: list[CaseTarget] = []
    covered: Mask = np.zeros(canonical_volume(image).shape, dtype=np.bool_)
    for case in cases:
        try:
            labels = LabelMap(canonical_volume(read_labels(case.label, image)))
        except Exception as error:  # bad labels must not cost the image's other cases; it is reported
            findings.fail(case, error)
        else:
            targets += _targets(case, labels, covered, findings)
    background = 1 - np.count_nonzero(covered) / covered.size
    kept = _cleaned(targets, background, config.cleaning, findings)
    if kept:
        _store(image, kept, place, config.spacing, findings)


def _store(image: Volume, kept: list[CaseTarget], place: Place, spacing: float, findings: Findings) -> None:
    """Store an image and its targets, or set all their cases aside."""
    entries, decisions = len(findings.entries), len(findings.decisions)
    try:
        store_volume(image, kept, place, spacing, findings)
    except Exception as error:  # what is not stored must not end thousands of cases; it is reported
        del findings.entries[entries:], findings.decisions[decisions:]
        for case in {case.label: case for case, _ in kept}.values():
            findings.fail(case, error)


def _targets(case: SourceCase, labels: LabelMap, covered: Mask, findings: Findings) -> list[CaseTarget]:
    """The targets of a file of labels; where they are is marked in `covered`."""
    for value in sorted(case.unnamed(labels.values)):
        findings.decide(case, f"label_{value}", "labels", kept=False, reason="the source has no name for it")
    out = []
    for name, values in case.targets(labels.values).items():
        if values:
            covered |= labels.covered(values)
            out.append((case, labels.target(name, values)))
    return out


def _cleaned(
    targets: list[CaseTarget], background: float, config: CleaningConfig, findings: Findings
) -> list[CaseTarget]:
    """What the cleaning leaves of the targets of one image."""
    empty = too_empty(background, config)
    out = []
    for case, target in targets:

        def record(name: str, step: str, verdict: Verdict, case: SourceCase = case) -> None:
            findings.decide(case, name, step, kept=bool(verdict.targets), reason=verdict.reason, number=verdict.number)

        if empty is not None:
            record(target.name, "background", empty)
        else:
            out += [(case, part) for part in clean(target, config, record)]
    return out
