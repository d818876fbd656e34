"""A simulated user and one target: which prompts are given, and what is measured after each.

Two protocols:

- "paper" (SAM-Med3D, section 3.3 and its evaluation): the first click is a random voxel of the target, each next one
  a random voxel of where the mask is wrong, on the volume's own grid.
- "challenge" (CVPR 2025, "Foundation Models for Interactive 3D Biomedical Image Segmentation", its public script
  CVPR25_iter_eval.py): a box, then five clicks, each at the centre of the largest error component. As there, the
  surface distance counts as 0 where Dice is not above 0.2. Unlike there, the box is the tight one in all three
  axes (the challenge's is that of the middle slice, randomly enlarged), and each target is scored by itself.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from backend.evaluation.clicks import ErrorClick, centre_error_click, random_error_click
from backend.evaluation.metrics import Bools, dice, surface_dice, union_box
from backend.evaluation.segmenters import Segmenter
from backend.volume import Volume

Protocol = Literal["paper", "challenge"]
CHALLENGE_CLICKS = 5
# Up to this Dice the challenge takes the surface distance for 0.
CHALLENGE_MIN_DICE = 0.2


@dataclass(frozen=True)
class Answer:
    """The mask after so many clicks, measured.

    Args:
        clicks: given so far; 0 after the box alone.
        dice: 0 to 1.
        nsd: normalised surface distance, 0 to 1; None where it was not asked for.
        seconds: that the answer took; None where the mask was perfect already and no click was given.
    """

    clicks: int
    dice: float
    nsd: float | None
    seconds: float | None


@dataclass
class Trial:
    """One user segmenting one target once.

    Args:
        mask: the true one.
        spacing: mm.
        tolerance_mm: of the surface distance.
        min_dice: the surface distance is 0 unless Dice is above; negative for no such rule.
    """

    mask: Bools = field(repr=False)
    spacing: tuple[float, float, float]
    tolerance_mm: float
    min_dice: float = -1.0
    prediction: Bools = field(init=False, repr=False)
    clicks: list[ErrorClick] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prediction = np.zeros_like(self.mask)

    def ask(self, clicks: int, answer: Callable[[], Bools], *, surface: bool) -> None:
        """Let a prompt be answered, and measure the answer."""
        begin = time.perf_counter()
        self.prediction = answer()
        self._measure(clicks, time.perf_counter() - begin, surface)

    def stay(self, clicks: int, *, surface: bool) -> None:
        """Nothing is wrong: the values are repeated."""
        self._measure(clicks, None, surface)

    def _measure(self, clicks: int, seconds: float | None, surface: bool) -> None:
        overlap = dice(self.prediction, self.mask)
        self.answers.append(Answer(clicks, overlap, self._nsd(overlap) if surface else None, seconds))

    def _nsd(self, overlap: float) -> float:
        if overlap <= self.min_dice:
            return 0.0
        return surface_dice(self.prediction, self.mask, self.spacing, self.tolerance_mm)


def paper_trial(
    segmenter: Segmenter,
    volume: Volume,
    mask: Bools,
    *,
    counts: Sequence[int],
    rng: np.random.Generator,
    tolerance_mm: float,
) -> Trial:
    """The paper's protocol up to the largest of `counts`, with the surface distance at each of them.

    With equal random numbers every model gets the same first click. A mask without errors gets no more clicks:
    its values are repeated.

    Args:
        segmenter: what answers.
        volume: the image.
        mask: (X, Y, Z), not empty.
        counts: numbers of clicks.
        rng: what decides.
        tolerance_mm: of the surface distance.
    """
    trial = Trial(mask, volume.spacing, tolerance_mm)
    segmenter.start(volume)
    _click(trial, segmenter, range(1, max(counts) + 1), lambda: random_error_click(trial.prediction, mask, rng), counts)
    return trial


def challenge_trial(segmenter: Segmenter, volume: Volume, mask: Bools, tolerance_mm: float) -> Trial:
    """The challenge's protocol: the box of the mask (X, Y, Z), then five clicks; nothing in it is random."""
    trial = Trial(mask, volume.spacing, tolerance_mm, CHALLENGE_MIN_DICE)
    corners = [(float(s.start), float(s.stop - 1)) for s in union_box(mask, mask)]
    corner, opposite = zip(*corners, strict=True)
    segmenter.start(volume)
    trial.ask(0, lambda: segmenter.box(corner, opposite), surface=True)
    counts = range(1, CHALLENGE_CLICKS + 1)
    # As in the challenge, depth is counted in voxels, whatever their size.
    _click(trial, segmenter, counts, lambda: centre_error_click(trial.prediction, mask), counts)
    return trial


def _click(
    trial: Trial,
    segmenter: Segmenter,
    numbers: Iterable[int],
    next_click: Callable[[], ErrorClick | None],
    with_surface: Sequence[int],
) -> None:
    for number in numbers:
        click = next_click()
        if click is None:
            trial.stay(number, surface=number in with_surface)
            continue
        trial.clicks.append(click)
        answer = partial(segmenter.click, *click)
        trial.ask(number, answer, surface=number in with_surface)


def area_under_curve(values: Sequence[float]) -> float:
    """The challenge's area under the curve over its clicks 1 to 5, by the trapezoid rule: at most 4.

    AUC = sum over n = 1..4 of (v[n] + v[n + 1]) / 2. The box's value is not in it, since not every case has a box
    (CVPR25_iter_eval.py: cumulative_trapezoid of the last five values over 0..4).

    Args:
        values: Dice or surface distance after clicks 1 to 5.
    """
    return float(np.trapezoid(np.asarray(values, dtype=np.float64)))
