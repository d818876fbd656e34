"""Pictures of a run."""

from pathlib import Path
from typing import Any

from backend.extras import extra
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.training.logs import Line, read_log


def plot_run(log: Path, picture: Path) -> None:
    """Draw loss and learning rate by step, and the validation's Dice by epoch, as a PNG.

    Args:
        log: the `log.jsonl` of a run.
        picture: the file to make.

    Raises:
        SamMed3DError: DEPENDENCY_MISSING, without matplotlib; FILE_WRITE.
    """
    lines = read_log(log)
    figure = extra("matplotlib.figure").Figure(figsize=(12, 4))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.98, "bottom": 0.13, "wspace": 0.35})
    _draw_steps(left, [line for line in lines if line["kind"] == "step"])
    _draw_validations(right, [line for line in lines if line["kind"] == "validation"])
    with writing(picture), replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _draw_steps(axes: Any, steps: list[Line]) -> None:
    done = [line["step"] for line in steps]
    axes.plot(done, [float("nan") if line["loss"] is None else line["loss"] for line in steps], color="C0")
    axes.set(xlabel="optimizer step", ylabel="loss")
    rates = axes.twinx()
    rates.plot(done, [line["lr"] for line in steps], color="C7", linestyle=":")
    rates.set(ylabel="learning rate (dotted)", yscale="log")


def _draw_validations(axes: Any, validations: list[Line]) -> None:
    epochs = [line["epoch"] for line in validations]
    for clicks in validations[0]["dice"] if validations else ():
        curve = [line["dice"][clicks] for line in validations]
        axes.plot(epochs, curve, marker="o", label=f"after {clicks} click{'s' * (clicks != '1')}")
    axes.set(xlabel="epoch", ylabel="Dice of held-out masks", ylim=(0, 1))
    if validations:
        axes.legend()
