"""Rows to tables: means with confidence intervals by group, differences between models, times.

A target counts once, with the mean of its repeats; an interval comes from drawing subjects (see `statistics`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backend.evaluation.protocol import CHALLENGE_CLICKS, area_under_curve
from backend.evaluation.results import Row
from backend.evaluation.statistics import Estimate, bootstrap_mean

SIZES_ML = (5.0, 50.0, 500.0)

Key = tuple[str, str]
Measure = Callable[[Row], float]


def size_of(row: Row) -> str:
    """The bin of a target's volume."""
    low, middle, high = SIZES_ML
    if row.volume_ml < low:
        return f"1: < {low:g} ml"
    if row.volume_ml < middle:
        return f"2: {low:g} to {middle:g} ml"
    return f"3: {middle:g} to {high:g} ml" if row.volume_ml < high else f"4: >= {high:g} ml"


GROUPINGS: Mapping[str, Callable[[Row], str]] = {
    "overall": lambda _: "all",
    "structure": lambda row: row.structure,
    "modality": lambda row: row.modality,
    "seen": lambda row: "seen" if row.seen else "unseen",
    "size": size_of,
    "dataset": lambda row: row.dataset,
}
MEASURES: Mapping[str, Measure] = {"dice": lambda row: row.dice, "nsd": lambda row: row.nsd}


@dataclass(frozen=True)
class Line:
    """A model on a group of targets after so many clicks."""

    by: str
    group: str
    model: str
    clicks: int
    dice: Estimate
    nsd: Estimate


@dataclass(frozen=True)
class Difference:
    """A model less the first one, target by target, on the targets that both have."""

    model: str
    against: str
    clicks: int
    dice: Estimate
    nsd: Estimate


@dataclass(frozen=True)
class Timing:
    """Medians over trials (s) and, for a volume, the mean over volumes of all answers to all of its targets."""

    model: str
    first_click: float
    next_click: float | None
    target: float
    volume: float


@dataclass(frozen=True)
class ChallengeLine:
    """The challenge's measures of a model; the areas are at most 4."""

    model: str
    dice_auc: Estimate
    nsd_auc: Estimate
    dice_final: Estimate
    nsd_final: Estimate
    seconds: Estimate


def models_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The models, in the order in which they first occur."""
    return tuple(dict.fromkeys(row.model for row in rows))


def summary(rows: Sequence[Row]) -> list[Line]:
    """Every grouping, group, model and number of clicks."""
    cells: dict[tuple[str, str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        for by, group_of in GROUPINGS.items():
            cells[by, group_of(row), row.model, row.clicks].append(row)
    places = {name: i for i, name in enumerate(GROUPINGS)}
    models = models_of(rows)
    ordered = sorted(cells, key=lambda cell: (places[cell[0]], cell[1], models.index(cell[2]), cell[3]))
    return [
        Line(*cell, dice=_estimate(cells[cell], MEASURES["dice"]), nsd=_estimate(cells[cell], MEASURES["nsd"]))
        for cell in ordered
    ]


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Each further model against the first."""
    models = models_of(rows)
    out = []
    for model in models[1:]:
        for clicks in sorted({row.clicks for row in rows}):
            mine, first = ([r for r in rows if r.model == m and r.clicks == clicks] for m in (model, models[0]))
            overlap, surface = (_paired(mine, first, of) for of in MEASURES.values())
            out.append(Difference(model, models[0], clicks, dice=overlap, nsd=surface))
    return out


def timings(rows: Sequence[Row]) -> list[Timing]:
    """How long answers took, by model."""
    out = []
    last = max((row.clicks for row in rows), default=0)
    for model in models_of(rows):
        ends = [row for row in rows if row.model == model and row.clicks == last]
        if not ends:
            continue
        following = [row.seconds_next for row in ends if row.seconds_next is not None]
        repeats = len({row.repeat for row in ends})
        volumes: dict[str, float] = defaultdict(float)
        for row in ends:
            volumes[row.case] += row.seconds_total / repeats
        out.append(
            Timing(
                model,
                first_click=float(np.median([row.seconds_first for row in ends])),
                next_click=float(np.median(following)) if following else None,
                target=float(np.median([row.seconds_total for row in ends])),
                volume=float(np.mean(list(volumes.values()))),
            )
        )
    return out


def challenge(rows: Sequence[Row]) -> list[ChallengeLine]:
    """The challenge's five measures, each a mean over targets."""
    out = []
    for model in models_of(rows):
        trials: dict[tuple[Key, int], list[Row]] = defaultdict(list)
        for row in rows:
            if row.model == model:
                trials[(row.case, row.key), row.repeat].append(row)
        whole = [sorted(trial, key=lambda row: row.clicks)[-CHALLENGE_CLICKS:] for trial in trials.values()]
        subjects = [trial[-1].subject for trial in whole]
        measures = {
            f"{name}_{what}": bootstrap_mean([value([of(row) for row in trial]) for trial in whole], subjects)
            for name, of in MEASURES.items()
            for what, value in (("auc", area_under_curve), ("final", lambda values: values[-1]))
        }
        seconds = bootstrap_mean([trial[-1].seconds_total for trial in whole], subjects)
        out.append(ChallengeLine(model, seconds=seconds, **measures))
    return out


def _by_target(rows: Iterable[Row], of: Measure) -> dict[Key, tuple[float, str]]:
    """The mean of each target's repeats, and its subject."""
    values: dict[Key, list[float]] = defaultdict(list)
    subjects: dict[Key, str] = {}
    for row in rows:
        values[row.case, row.key].append(of(row))
        subjects[row.case, row.key] = row.subject
    return {key: (float(np.mean(found)), subjects[key]) for key, found in values.items()}


def _estimate(rows: Iterable[Row], of: Measure) -> Estimate:
    found = _by_target(rows, of).values()
    return bootstrap_mean([value for value, _ in found], [subject for _, subject in found])


def _paired(mine: Iterable[Row], first: Iterable[Row], of: Measure) -> Estimate:
    ours, theirs = _by_target(mine, of), _by_target(first, of)
    both = [key for key in ours if key in theirs]
    return bootstrap_mean([ours[key][0] - theirs[key][0] for key in both], [ours[key][1] for key in both])
