"""Interactive segmentation of several objects in one volume, as a script uses it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside
from backend.inference.canvas import MaskPatch
from backend.inference.objects import LabelMap
from backend.inference.predictor import Predictor
from backend.inference.prompts import Box, Click, History, InitialMask, Point, Prompt, check_prompt
from backend.inference.solvers import make_solver


class Session:
    """Objects in one volume: each an ordered list of prompts with undo and redo, and a label.

    The open object's mask is brought up to date by `segment`; everything else returns at once.

    Args:
        predictor: model and volume.
        extend: whether to look beyond the first window: further, closer, and at a large object's border.
    """

    def __init__(self, predictor: Predictor, extend: bool = True) -> None:
        self.solver = make_solver(predictor, extend)
        self.objects = LabelMap(predictor.volume.shape)

    @property
    def history(self) -> History:
        """The prompts of the open object, to undo, redo and remove."""
        return self.objects.history

    @property
    def labels(self) -> npt.NDArray[np.uint16]:
        """All objects, (x, y, z) on the volume's grid, 0 where there is none; not a copy."""
        return self.objects.array

    def click(self, point: npt.ArrayLike, positive: bool = True) -> None:
        """Add a click at a volume index (x, y, z)."""
        self.add(Click(self._point(point), positive))

    def box(self, corner: npt.ArrayLike, opposite: npt.ArrayLike) -> None:
        """Add a box by two opposite corners (x, y, z)."""
        self.add(Box(self._point(corner), self._point(opposite)))

    def initial_mask(self, mask: npt.NDArray[np.bool_]) -> None:
        """Start from a mask (x, y, z), bool or integers, on the volume's grid; kept as it is until clicks follow."""
        array = np.asarray(mask)
        if array.dtype.kind == "f":
            raise SamMed3DError(
                ErrorCode.PROMPT_INVALID,
                f"The initial mask is of type {array.dtype}.",
                "Give a bool or integer mask; of probabilities, those above a threshold.",
            )
        self.add(InitialMask(array != 0))

    def add(self, prompt: Prompt) -> None:
        """Add any prompt to the open object.

        Raises:
            SamMed3DError: it is outside the volume, or the object would begin with a negative click.
        """
        check_prompt(self.solver.predictor.volume, prompt)
        self.history.add(prompt)

    def _point(self, index: npt.ArrayLike) -> Point:
        x, y, z = check_inside(self.solver.predictor.volume, index).tolist()
        return x, y, z

    def segment(self, progress: Callable[[int], None] | None = None) -> MaskPatch:
        """Compute the open object from its prompts, show it in `labels`, and return it.

        Args:
            progress: called with the number of windows so far, each time before a new one is looked at and at
                the end; a large object takes several.
        """
        patch = self.solver.predictor.paint(self.solver.final(self.history.prompts, progress))
        self.objects.show(patch)
        self.objects.settle()
        return patch

    def accept(self) -> int:
        """Keep the open object and open a new one; returns the label kept.

        Raises:
            SamMed3DError: the object is empty, or its prompts changed since it was last segmented.
        """
        return self.objects.accept()

    def reopen(self, label: int) -> None:
        """Open another object, with its prompts; the one that was open stays as it is, if there is anything of it."""
        self.objects.reopen(label)
