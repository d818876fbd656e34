"""The label map that objects are kept in: one label each, and no object overwrites another."""

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.inference.prompts import History, InitialMask, Prompts

LABEL_DTYPE = np.uint16


class LabelMap:
    """Objects on the volume's grid, each with its prompts. One is open: it is changed; the others stay as they are.

    Args:
        shape: of the volume, (x, y, z).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        try:
            self.array: npt.NDArray[np.uint16] = np.zeros(shape, dtype=LABEL_DTYPE)
        except (MemoryError, ValueError) as error:
            x, y, z = shape
            raise SamMed3DError(
                ErrorCode.VOLUME_TOO_LARGE,
                f"A label map of {x} x {y} x {z} voxels needs {2 * x * y * z / 1e9:.1f} GB, which is not to be had.",
                "Crop the volume to what you want to segment, or use a coarser level of it.",
            ) from error
        # Whether somebody else may ever have changed voxels. From then on they are looked at: a viewer that takes its
        # own paint back, or brings it again, does not say so.
        self.painted = False
        self.current = 1
        self._shown: dict[int, MaskPatch] = {}
        self._histories: dict[int, History] = {}
        self._answered: dict[int, Prompts] = {}  # the prompts to which the mask is the answer

    @property
    def history(self) -> History:
        """The prompts of the open object."""
        return self._histories.setdefault(self.current, History())

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of all objects, the open one's among them."""
        return tuple(sorted({*self._shown, self.current}))

    @property
    def answered(self) -> bool:
        """Whether the open object's mask is the answer to its prompts."""
        return self.current not in self.unanswered

    @property
    def unanswered(self) -> tuple[int, ...]:
        """The labels of objects whose masks are not the answers to their prompts."""
        return tuple(n for n, history in self._histories.items() if history.prompts != self._answered.get(n, ()))

    @property
    def begun(self) -> bool:
        """Whether there may be something to accept: prompts, or paint."""
        return bool(self.history.prompts) or (self.painted and self._has_voxels())

    def adopt(self, labels: npt.NDArray[np.integer]) -> None:
        """Have objects that somebody else made, whose labels are among these, be opened, too."""
        present = np.zeros(np.iinfo(LABEL_DTYPE).max + 1, dtype=bool)
        for plane in labels:  # which may be a whole volume
            present[plane] = True
        for label in np.flatnonzero(present[1:]) + 1:
            self._shown.setdefault(int(label), EMPTY_PATCH)

    def show(self, patch: MaskPatch) -> None:
        """Make `patch` the open object, only where no other object is; more of it may follow, until `settle`."""
        self._erase()
        self._answered.pop(self.current, None)
        box = self.array[patch.slices]
        box[patch.mask & (box == 0)] = self.current
        self._shown[self.current] = MaskPatch(patch.start, box == self.current)

    def settle(self) -> None:
        """Take the open object's mask, as it is, for the answer to its prompts, as they are."""
        self._answered[self.current] = self.history.prompts

    def keep_paint(self) -> None:
        """Make what somebody painted in the open object a prompt: it stays when others follow, and can be undone.

        Unless nobody did, or all was erased. Prompts that are not answered yet come after it.
        """
        if self.repainted:
            kept, prompts = InitialMask(self.array == self.current), self.history.prompts
            answered = self._answered.get(self.current, ())
            known = len(answered) if prompts[: len(answered)] == answered else 0
            self.history.edit((*prompts[:known], kept, *prompts[known:]))
            self._answered[self.current] = self.history.prompts[: known + 1]
            self._shown[self.current] = kept.patch

    @property
    def repainted(self) -> bool:
        """Whether the open object is neither empty nor what was shown of it, as far as other objects leave it free."""
        if not self.painted or not self._has_voxels():
            return False
        shown = self._shown.get(self.current, EMPTY_PATCH)
        box = self.array[shown.slices]
        own = box == self.current
        free = own | (box == 0)
        changed = bool((own != (shown.mask & free)).any())
        return changed or self._count(self.array) > int(np.count_nonzero(own))

    def _box(self) -> npt.NDArray[np.uint16]:
        """The part of the array in which voxels of the open object are."""
        return self.array if self.painted else self.array[self._shown.get(self.current, EMPTY_PATCH).slices]

    def _has_voxels(self) -> bool:
        boxes = (self.array[self._shown.get(self.current, EMPTY_PATCH).slices], self._box())
        return any((plane == self.current).any() for box in boxes for plane in box)

    def _count(self, box: npt.NDArray[np.uint16]) -> int:
        """Voxels of the open object; plane by plane, as all that looks at the whole array, which may be large."""
        return sum(int(np.count_nonzero(plane == self.current)) for plane in box)

    def _drop(self) -> None:
        for table in (self._shown, self._histories, self._answered):
            table.pop(self.current, None)

    def _erase(self) -> None:
        for plane in self._box():
            plane[plane == self.current] = 0

    def accept(self) -> int:
        """Keep the open object; open a new one with the next label. Returns the label kept.

        Raises:
            SamMed3DError: the open object is empty, or its mask is not the answer to its prompts; or the labels are
                used up.
        """
        kept = self.current
        if not self.answered:
            raise SamMed3DError(
                ErrorCode.SESSION_STATE,
                f"Object {kept} is not segmented yet with its newest clicks.",
                "Wait for its mask, ask for it ('run' in the window, segment() in a script), or take them back.",
            )
        if not self._has_voxels():
            raise SamMed3DError(
                ErrorCode.SESSION_STATE,
                f"Object {kept} has no voxels of its own to accept.",
                "Click into a structure that no other object covers.",
            )
        following = max(int(self.array.max()), *self._shown, kept) + 1
        if following > np.iinfo(LABEL_DTYPE).max:
            raise SamMed3DError(
                ErrorCode.SESSION_STATE,
                f"All {np.iinfo(LABEL_DTYPE).max} labels are used.",
                "Save these objects and begin a new session.",
            )
        self._shown.setdefault(kept, EMPTY_PATCH)  # one that was only painted
        self.current = following
        return kept

    def reopen(self, label: int) -> None:
        """Make another object the open one; the one that was open stays as it is, if there is anything of it.

        Raises:
            SamMed3DError: no object has that label.
        """
        if label not in self.labels:
            raise SamMed3DError(
                ErrorCode.SESSION_STATE,
                f"There is no object {label!r}; there are {list(self.labels)}.",
                "Choose the label of one of them.",
            )
        if label != self.current:
            if self.history.prompts or self._has_voxels():
                self._shown.setdefault(self.current, EMPTY_PATCH)
            else:
                self._drop()
            self.current = label
            self.painted = True  # a script may have changed voxels, too, and told nobody
