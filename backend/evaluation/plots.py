"""The report's plots, as PNG."""

from collections.abc import Sequence

import numpy as np

from backend.evaluation.gallery import png_of
from backend.evaluation.tables import Line
from backend.extras import extra

NAMES = {"dice": "Dice", "nsd": "Normalised surface distance"}


def curves(lines: Sequence[Line]) -> bytes:
    """Both measures against the number of clicks, one curve a model, with the band of its interval."""
    overall = [line for line in lines if line.by == "overall"]
    figure = extra("matplotlib.figure").Figure(figsize=(9, 3.5), layout="constrained")
    for number, (measure, name) in enumerate(NAMES.items()):
        axes = figure.add_subplot(1, 2, number + 1)
        for model in dict.fromkeys(line.model for line in overall):
            found = [(line.clicks, getattr(line, measure)) for line in overall if line.model == model]
            clicks = [n for n, _ in found]
            axes.plot(clicks, [estimate.mean for _, estimate in found], marker="o", label=model)
            if all(estimate.low is not None for _, estimate in found):
                axes.fill_between(clicks, [e.low for _, e in found], [e.high for _, e in found], alpha=0.15)
        axes.set(xlabel="clicks", ylabel=name, ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return png_of(figure)


def structure_bars(lines: Sequence[Line]) -> bytes:
    """Dice by anatomical structure after the most clicks, one bar a model."""
    last = max(line.clicks for line in lines)
    found = [line for line in lines if line.by == "structure" and line.clicks == last]
    groups, models = (list(dict.fromkeys(getattr(line, field) for line in found)) for field in ("group", "model"))
    figure = extra("matplotlib.figure").Figure(figsize=(9, 1 + 0.22 * len(groups) * (1 + len(models))))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(models)
    for number, model in enumerate(models):
        mine = {line.group: line.dice.mean for line in found if line.model == model}
        at = np.arange(len(groups)) + (number - (len(models) - 1) / 2) * height
        axes.barh(at, [mine.get(group) or 0.0 for group in groups], height, label=model)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set(xlabel=f"Dice after {last} clicks", xlim=(0, 1))
    axes.legend(fontsize="small")
    return png_of(figure)
