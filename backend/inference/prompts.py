"""What a person can say about an object, and the undoable list of it. No torch here: the GUI thread uses this."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.volume import Volume

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Click:
    """A click at a continuous volume index (x, y, z): on the object, or on what is not the object."""

    point: Point
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """Two opposite corners, continuous volume indices (x, y, z), around the object."""

    corner: Point
    opposite: Point


class InitialMask:
    """A guess of the object, in the place of all prompts before it. Only the box that holds it is kept.

    Args:
        mask: bool, on the volume's grid, (X, Y, Z); copied.
    """

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.shape = mask.shape
        self.patch = EMPTY_PATCH
        if mask.ndim == 3 and mask.any():
            x, y, z = (slice(int(span[0]), int(span[-1]) + 1) for span in _spans(mask))
            self.patch = MaskPatch((x.start, y.start, z.start), mask[x, y, z].copy())

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """All of it (X, Y, Z), made anew."""
        mask = np.zeros(self.shape, dtype=bool)
        mask[self.patch.slices] = self.patch.mask
        return mask


def _spans(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Where it is along each axis."""
    return [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]


Prompt = Click | Box | InitialMask
Prompts = tuple[Prompt, ...]


def check_prompt(volume: Volume, prompt: Prompt) -> None:
    """Refuse a prompt that does not lie in the volume.

    Raises:
        SamMed3DError: `prompt.invalid`, naming the point or the shape.
    """
    if isinstance(prompt, Click):
        check_inside(volume, prompt.point)
    elif isinstance(prompt, Box):
        check_inside(volume, prompt.corner)
        check_inside(volume, prompt.opposite)
    elif prompt.shape != volume.shape or not prompt.patch.mask.any():
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"The initial mask has shape {prompt.shape} and {int(prompt.patch.mask.sum())} voxels set, "
            f"but the volume has shape {volume.shape}.",
            "Give a mask on the volume's own grid with at least one voxel set.",
        )


def check_order(prompts: Sequence[Prompt]) -> None:
    """Refuse a list that begins with what the object is not: there is nothing yet to take it from."""
    if prompts and isinstance(prompts[0], Click) and not prompts[0].positive:
        raise SamMed3DError(
            ErrorCode.PROMPT_NEEDS_POSITIVE,
            f"The object would begin with a negative click (at {prompts[0].point}).",
            "It needs one positive click first: click on the object, then correct with negative clicks.",
        )


def positive_first(prompts: Sequence[Prompt]) -> Prompts:
    """The prompts in their order, but for the first that says what the object is, with which it has to begin."""
    first = next((n for n, prompt in enumerate(prompts) if not isinstance(prompt, Click) or prompt.positive), 0)
    return (*prompts[first : first + 1], *prompts[:first], *prompts[first + 1 :])


def ends_of(prompt: Box | InitialMask) -> tuple[Point, Point]:
    """Two opposite corners of a box, or the first and the last voxel index of a mask along each axis."""
    if isinstance(prompt, Box):
        return prompt.corner, prompt.opposite
    (x0, x1), (y0, y1), (z0, z1) = ((float(side.start), float(side.stop - 1)) for side in prompt.patch.slices)
    return (x0, y0, z0), (x1, y1, z1)


def centre_of(prompt: Prompt) -> Point:
    """The volume index that a prompt's window is laid around."""
    if isinstance(prompt, Click):
        return prompt.point
    x, y, z = np.mean(ends_of(prompt), axis=0).tolist()
    return x, y, z


class History:
    """The prompts of one object, in order, with undo and redo of any number of edits."""

    def __init__(self) -> None:
        self._versions: list[Prompts] = [()]
        self._position = 0

    @property
    def prompts(self) -> Prompts:
        """The prompts as they stand, oldest first."""
        return self._versions[self._position]

    def edit(self, prompts: Sequence[Prompt]) -> None:
        """Make `prompts` the current version; what had been undone is forgotten."""
        check_order(prompts)
        self._versions[self._position + 1 :] = [tuple(prompts)]
        self._position += 1

    def add(self, prompt: Prompt) -> None:
        """Put one prompt last."""
        self.edit((*self.prompts, prompt))

    def remove(self, index: int) -> None:
        """Take out the prompt at `index`, counted from the oldest."""
        if not 0 <= index < len(self.prompts):
            raise SamMed3DError(
                ErrorCode.PROMPT_INVALID,
                f"There is no prompt {index}: the object has {len(self.prompts)}.",
                "Count from 0, the oldest.",
            )
        self.edit(self.prompts[:index] + self.prompts[index + 1 :])

    def clear(self) -> None:
        """Take all prompts out, if there are any."""
        if self.prompts:
            self.edit(())

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to go back from."""
        return self._position > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone edit."""
        return self._position + 1 < len(self._versions)

    def undo(self) -> None:
        """Go one edit back, if there is one."""
        self._position -= self.can_undo

    def redo(self) -> None:
        """Go one undone edit forward, if there is one."""
        self._position += self.can_redo
