"""Prompts in order -> the object: replayed one at a time, with every earlier answer remembered."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np

from backend.inference.canvas import Canvas, Floats
from backend.inference.predictor import Predictor
from backend.inference.prompts import Prompt, Prompts, check_order, check_prompt

# Logit given to the voxels of an initial mask (and its negative outside): sure, yet not beyond what a network gives.
MASK_LOGIT = 8.0
# Of lists of prompts whose windows are kept; what is undone beyond them is replayed. One window takes up to 1 MB.
REMEMBERED_BYTES = 200_000_000


class Solver(ABC):
    """The object that a list of prompts describes, with every shorter list's object remembered.

    Args:
        predictor: model and volume.
        extend: whether to look beyond the first window: further, closer, and at a large object's border.
    """

    def __init__(self, predictor: Predictor, extend: bool = True) -> None:
        self.predictor = predictor
        self.extend = extend
        self._solved: OrderedDict[Prompts, Canvas] = OrderedDict()

    @abstractmethod
    def prepare(self, prompt: Prompt) -> None:
        """Compute the embedding that `prompt` will need, if it is the first of its object."""

    @abstractmethod
    def _answer(self, canvas: Canvas, prompts: Prompts) -> Canvas:
        """The object after the newest of the prompts, from what it was before it."""

    def _follow(self, canvas: Canvas, prompts: Prompts, *, explore: bool) -> Iterator[Canvas]:  # noqa: ARG002 -- some do
        """Look further where there is more to see of the object; only what was seen before, unless to `explore`."""
        yield canvas

    def final(self, prompts: Prompts, progress: Callable[[int], None] | None = None) -> Canvas:
        """The object that `prompts` describe, all windows done; `progress` is called with their number so far."""
        canvas = self.predictor.canvas()
        for step in self.solve(prompts):
            canvas = step
            if progress is not None:
                progress(canvas.looks)
        return canvas

    def solve(self, prompts: Prompts, stopped: Callable[[], bool] = lambda: False) -> Iterator[Canvas]:
        """Yield the object as it grows; the last one is final. Solving again after stopping early goes on from there.

        Prompts are replayed one at a time, each with the logits before it. An initial mask replaces all that was
        before it.

        Args:
            prompts: oldest first.
            stopped: asked before each prompt; nothing more comes once it is true.

        Raises:
            SamMed3DError: a prompt outside the volume, or a negative click as the first.
        """
        check_order(prompts)
        for prompt in prompts:
            check_prompt(self.predictor.volume, prompt)
        known = next(n for n in range(len(prompts), -1, -1) if n == 0 or prompts[:n] in self._solved)
        canvas = self._solved[prompts[:known]] if known else self.predictor.canvas()
        for count in range(known + (known < len(prompts)), len(prompts) + 1):
            if stopped():
                return
            given, newest = prompts[:count], count == len(prompts)
            if count > known:
                canvas = self._answer(canvas, given)
            for step in self._follow(canvas, given, explore=newest):
                canvas = step
                self._remember(given, canvas)
                if newest:
                    yield canvas

    def _remember(self, prompts: Prompts, canvas: Canvas) -> None:
        self._solved[prompts] = canvas
        self._solved.move_to_end(prompts)
        while len(self._solved) > 1 and sum(known.nbytes for known in self._solved.values()) > REMEMBERED_BYTES:
            self._solved.popitem(last=False)


def logits_of(cells: Floats) -> Floats:
    """Logits of how much of each cell a mask fills: above 0 from a half on.

    Of a vessel, or a small lesion, hardly one cell is half full: then the fullest, as many as it would fill.
    """
    filled = float(cells.sum())
    if np.count_nonzero(cells > 0.5) >= filled / 2:
        return (MASK_LOGIT * (2 * cells - 1)).astype(np.float32)
    count = max(1, round(filled))
    least = float(np.partition(cells, -count, axis=None)[-count])
    return (MASK_LOGIT * np.where(cells >= least, 1, cells / least - 1)).astype(np.float32)
