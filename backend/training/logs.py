"""What a run tells: JSON lines always, TensorBoard where it is installed."""

import json
import math
from pathlib import Path
from typing import Any, Protocol

from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.training.state import Counters

Line = dict[str, Any]


class Board(Protocol):
    """The part of TensorBoard's `SummaryWriter` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add a point to a curve."""

    def close(self) -> None:
        """Write what is left."""


class RunLog:
    """The file `log.jsonl` of a run, one object a line, with `kind` and `step`; each step and validation once.

    Args:
        path: the file; what it says of times after `start`, from a run that was killed, is removed.
        start: where the run goes on.
    """

    def __init__(self, path: Path, start: Counters) -> None:
        self._path = path
        self._board = _board(path.parent, start.step)
        with writing(path):
            kept = [line for line in read_log(path) if _is_before(line, start)] if path.exists() else []
            with replacing(path) as temporary:
                temporary.write_text("".join(map(_dump, kept)), encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add a line.

        Args:
            kind: "step", "validation", "start" or "note".
            step: optimizer steps done.
            values: numbers, texts, and lists and dictionaries of these; what is not a finite number becomes null.

        Raises:
            SamMed3DError: FILE_WRITE.
        """
        line = {"kind": kind, "step": step, **values}
        with writing(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(_dump(line))
        if self._board is not None:
            for name, value in _curves(values).items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[Line]:
    """The whole lines of a log; a last one that a kill cut short is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _is_before(line: Line, start: Counters) -> bool:
    if line["kind"] == "validation":
        return bool(line["epoch"] <= start.validated)
    return bool(line["step"] <= start.step)


def _dump(line: Line) -> str:
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _curves(values: Line) -> dict[str, float]:
    """The numbers among the values; the members of lists and dictionaries by their index or name."""
    curves: dict[str, float] = {}
    for name, value in values.items():
        members = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        curves |= {f"{name}/{key}": float(item) for key, item in members.items() if _is_number(item)}
        if _is_number(value):
            curves[name] = float(value)
    return curves


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _board(folder: Path, step: int) -> Board | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # it is optional
        return None
    board: Board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
    return board
