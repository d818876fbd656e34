"""The worst results of a case, kept small and drawn at its end: slices with the true outline, the mask, the clicks."""

import heapq
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from backend.evaluation.metrics import Bools, union_box
from backend.evaluation.protocol import Trial
from backend.evaluation.results import Picture
from backend.evaluation.targets import Target
from backend.extras import extra
from backend.geometry import display_order
from backend.volume import Volume

# Pictures a case and model; the report shows the worst of all cases.
KEPT = 2
# Shown around the mask and the object (mm).
MARGIN_MM = 15.0
# A click nearer to a slice than this is drawn on it.
NEAR_MM = 5.0


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane of a volume as a viewer shows it, cropped.

    Args:
        image: (rows, columns).
        mask: where the object is.
        prediction: where it was found.
        spacing: mm between rows and between columns.
        clicks: (row, column) of those near it, and whether each is positive.
    """

    image: npt.NDArray[np.float32] = field(repr=False)
    mask: Bools = field(repr=False)
    prediction: Bools = field(repr=False)
    spacing: tuple[float, float]
    clicks: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The end of a trial: of whom, how good, and one slice along each axis."""

    model: str
    target: Target
    clicks: int
    dice: float
    slices: tuple[Slice, ...]


class Gallery:
    """The `KEPT` worst trials of each model."""

    def __init__(self) -> None:
        self._worst: dict[str, list[tuple[float, int, Snapshot]]] = {}
        self._order = count()  # decides between equals, since snapshots cannot be compared

    def offer(self, model: str, target: Target, volume: Volume, trial: Trial) -> None:
        """Keep the end of a trial if it is among the worst so far."""
        worst, badness = self._worst.setdefault(model, []), -trial.answers[-1].dice
        if len(worst) >= KEPT and badness <= worst[0][0]:
            return
        last = trial.answers[-1]
        snapshot = Snapshot(model, target, last.clicks, last.dice, take_slices(volume, trial))
        heapq.heappush(worst, (badness, next(self._order), snapshot))
        del worst[: len(worst) > KEPT]
        heapq.heapify(worst)

    def pictures(self) -> tuple[Picture, ...]:
        """All that was kept, drawn."""
        return tuple(
            Picture.model_construct(
                model=shot.model,
                case=shot.target.case,
                target=shot.target.name,
                clicks=shot.clicks,
                dice=shot.dice,
                png=draw(shot.slices),
            )
            for worst in self._worst.values()
            for _, _, shot in sorted(worst, key=lambda kept: -kept[0])
        )


def take_slices(volume: Volume, trial: Trial) -> tuple[Slice, ...]:
    """Along each of the viewer's axes the slice with the most wrong voxels (of the object, where none is wrong)."""
    order = display_order(volume)
    wrong = trial.prediction ^ trial.mask
    shown = order.show(wrong if wrong.any() else trial.mask)
    spacing = [volume.spacing[axis] for axis in order.axes]
    x, y, z = (int(MARGIN_MM / s) for s in spacing)
    box = union_box(order.show(trial.prediction), order.show(trial.mask), (x, y, z))
    planes = (int(shown.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
    return tuple(_slice(volume, trial, box, axis, index) for axis, index in enumerate(planes))


def _slice(volume: Volume, trial: Trial, box: tuple[slice, ...], axis: int, index: int) -> Slice:
    """The plane at `index` along one of the viewer's axes, of a box along the two others."""
    order = display_order(volume)
    spacing = [volume.spacing[a] for a in order.axes]
    rows, columns = (a for a in range(3) if a != axis)
    cut = tuple(slice(index, index + 1) if a == axis else box[a] for a in range(3))
    points = [(order.to_viewer(click.point), click.positive) for click in trial.clicks]
    return Slice(
        image=np.nan_to_num(order.show(np.asarray(volume.array))[cut].squeeze(axis).astype(np.float32)),
        mask=order.show(trial.mask)[cut].squeeze(axis).copy(),  # not a view, which would keep the whole array
        prediction=order.show(trial.prediction)[cut].squeeze(axis).copy(),
        spacing=(spacing[rows], spacing[columns]),
        clicks=tuple(
            (float(point[rows]) - box[rows].start, float(point[columns]) - box[columns].start, positive)
            for point, positive in points
            if abs(point[axis] - index) * spacing[axis] <= NEAR_MM
        ),
    )


def draw(slices: Sequence[Slice]) -> bytes:
    """The slices beside each other as a PNG: mask in blue, true outline in green, clicks as a plus or a minus."""
    figure = extra("matplotlib.figure").Figure(figsize=(3 * len(slices), 3), layout="constrained")
    for number, cut in enumerate(slices):
        axes = figure.add_subplot(1, len(slices), number + 1)
        low, high = np.percentile(cut.image, (1, 99))
        axes.imshow(cut.image, cmap="gray", vmin=low, vmax=high, aspect=cut.spacing[0] / cut.spacing[1])
        if min(cut.mask.shape) > 1:  # matplotlib draws no outlines in a single row
            axes.contourf(cut.prediction.astype(float), levels=[0.5, 1.5], colors=["tab:blue"], alpha=0.4)
            axes.contour(cut.mask.astype(float), levels=[0.5], colors=["lime"], linewidths=1)
        for row, column, positive in cut.clicks:
            marker, colour = ("+", "yellow") if positive else ("_", "red")
            axes.plot(column, row, marker, color=colour, markersize=9, markeredgewidth=2)
        axes.set_axis_off()
    return png_of(figure)


def png_of(figure: object) -> bytes:
    """A matplotlib figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)  # type: ignore[attr-defined]  # typed as an object
    return stream.getvalue()
