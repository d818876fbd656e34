"""Clicks at one voxel size: windows of 1.5 mm that follow an object wherever it leaves them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import Index3, extract_crop
from backend.inference.canvas import Canvas, Window
from backend.inference.predictor import SPACING_MM
from backend.inference.prompts import Box, Click, InitialMask, Prompt, Prompts, centre_of, check_prompt, ends_of
from backend.inference.solver import Solver, logits_of
from backend.volume import Volume

NEGATIVE, POSITIVE, BOX_FIRST, BOX_SECOND = 0, 1, 2, 3
# An object that reaches a face over less than this is taken to end there (about three cells of 6 mm).
FACE_AREA_MM2 = 100.0
# 27 windows cover 0.4 m an axis, a whole torso; beyond that it is a leak.
MAX_WINDOWS = 27


class FollowingSolver(Solver):
    """For networks of one voxel size: windows of 1.5 mm, and further ones wherever the object leaves them.

    Each prompt is given alone, together with the logits before it (design of the published training; what works
    best for its weights).
    """

    def prepare(self, prompt: Prompt) -> None:
        """Compute the embedding of the window around `prompt`."""
        check_prompt(self.predictor.volume, prompt)
        self.predictor.embedding(self._first_start(prompt))

    def _first_start(self, prompt: Prompt) -> Index3:
        return self.predictor.centred(self.predictor.grid.voxel_of(centre_of(prompt)))

    def _answer(self, canvas: Canvas, prompts: Prompts) -> Canvas:
        """Give the prompt to every window that sees it, to a new one if none does; leave only prompted windows.

        Those that follow the object are opened anew, so that a correction also takes back where it had leaked to.
        """
        prompt = prompts[-1]
        if isinstance(prompt, InitialMask):
            return self._fill(prompt)
        voxel = self.predictor.grid.voxel_of(centre_of(prompt))
        starts = [w.start for w in canvas.containing(voxel)]
        if not starts and (isinstance(prompt, Box) or prompt.positive):
            starts = [canvas.align(self.predictor.centred(voxel))]
        for start in starts:
            voxels, labels = self._tokens(prompt, start)
            canvas = self._decode(canvas, start, voxels, labels, prompted=True)
        return canvas.prompted_only()

    def _tokens(self, prompt: Click | Box, start: Index3) -> tuple[list[Index3], list[int]]:
        """Grid voxels and labels of a prompt, for the window at `start`."""
        grid = self.predictor.grid
        if isinstance(prompt, Click):
            return [grid.voxel_of(prompt.point)], [POSITIVE if prompt.positive else NEGATIVE]
        if not self.predictor.engine.model.supports_boxes:
            # As the published evaluation does: a box is a click at its centre.
            return [grid.voxel_of(centre_of(prompt))], [POSITIVE]
        corners = np.array([grid.voxel_of(prompt.corner), grid.voxel_of(prompt.opposite)])
        first = np.array(start)
        low, high = np.clip([corners.min(axis=0), corners.max(axis=0)], first, first + self.predictor.size - 1)
        return [_index(low), _index(high)], [BOX_FIRST, BOX_SECOND]

    def _decode(
        self, canvas: Canvas, start: Index3, voxels: list[Index3], labels: list[int], *, prompted: bool
    ) -> Canvas:
        logits = self.predictor.decode(start, voxels, labels, canvas.read(start))
        return canvas.with_window(Window(start, logits, prompted))

    def _follow(self, canvas: Canvas, prompts: Prompts, *, explore: bool) -> Iterator[Canvas]:
        """Open windows half a window further wherever the object reaches a face (paper: large targets).

        Each overlaps the one before by 50 % and sees a prompt: a click of the person's that lies in it, or
        else the surest voxel of what is already found there. Windows that are new to the predictor take long:
        they are opened only to `explore`, and what there is is yielded before each of them, and at the end.
        """
        min_cells = max(1, round(FACE_AREA_MM2 / (canvas.stride * SPACING_MM) ** 2))
        tried = {w.start for w in canvas.windows}
        whole = not prompts or isinstance(prompts[-1], InitialMask)  # nothing yet, or given as it is
        frontier = list(canvas.windows) if self.extend and not whole else []
        while frontier:
            for start in self._ahead(canvas, frontier.pop(0), min_cells):
                if start in tried or len(canvas.windows) >= MAX_WINDOWS:
                    continue
                tried.add(start)
                anchor = self._anchor(canvas, prompts, start)
                if anchor is None or not (explore or self.predictor.has_embedding(start)):
                    continue
                if not self.predictor.has_embedding(start):
                    yield canvas
                canvas = self._decode(canvas, start, [anchor], [POSITIVE], prompted=False)
                frontier.append(canvas.windows[-1])
        yield canvas

    def _ahead(self, canvas: Canvas, window: Window, min_cells: int) -> Iterator[Index3]:
        """Starts half a window beyond each face that the object reaches, where there is still volume."""
        for step in canvas.touches(window, min_cells):
            start = _index(np.array(window.start) + np.array(step) * (self.predictor.size // 2))
            if self._reaches_grid(start, step):
                yield start

    def _reaches_grid(self, start: Index3, step: Index3) -> bool:
        """Whether the half of the window that lies ahead, in the direction of `step`, holds any of the grid."""
        axis = int(np.flatnonzero(step)[0])
        half = self.predictor.size // 2
        if step[axis] < 0:
            return start[axis] + half > 0
        return start[axis] + half < self.predictor.grid.shape[axis]

    def _anchor(self, canvas: Canvas, prompts: Prompts, start: Index3) -> Index3 | None:
        """A grid voxel on the object inside the window at `start`: the newest click there, or the surest voxel."""
        first = np.array(start)
        for prompt in reversed(prompts):
            if isinstance(prompt, Click) and prompt.positive:
                voxel = np.array(self.predictor.grid.voxel_of(prompt.point))
                if ((voxel >= first) & (voxel < first + self.predictor.size)).all():
                    return _index(voxel)
        seen = canvas.read(start)
        if seen.max() <= 0:
            return None
        cell = np.unravel_index(int(seen.argmax()), seen.shape)
        return _index(first + np.array(cell) * canvas.stride + canvas.stride // 2)

    def _fill(self, prompt: InitialMask) -> Canvas:
        """Windows over the whole of an initial mask, with logits that say it."""
        mask = Volume(prompt.mask, self.predictor.volume.affine)
        canvas = self.predictor.canvas()
        for start in self._cover(prompt):
            share = extract_crop(mask, self.predictor.grid, start, canvas.size)
            cells = share.reshape((canvas.cells, canvas.stride) * 3).mean(axis=(1, 3, 5))
            canvas = canvas.with_window(Window(start, logits_of(cells), prompted=True))
        return replace(canvas, given=prompt.patch)

    def _cover(self, prompt: InitialMask) -> list[Index3]:
        """Starts of windows, half a window apart, that cover the box of a mask."""
        ends = self.predictor.grid.from_volume(np.array(ends_of(prompt)))
        low, high = np.floor(ends.min(axis=0)).astype(int), np.ceil(ends.max(axis=0)).astype(int)
        half = self.predictor.size // 2
        counts = np.maximum(1, np.ceil((high - low + 1 - half) / half).astype(int))
        if counts.prod() > MAX_WINDOWS:
            raise SamMed3DError(
                ErrorCode.PROMPT_INVALID,
                f"The initial mask needs {counts.prod()} windows; {MAX_WINDOWS} is the limit.",
                "Give the mask of one object, or a smaller part of it.",
            )
        first = (low + high + 1 - (counts + 1) * half) // 2
        return [_index(first + half * np.array(step)) for step in np.ndindex(*counts)]


def _index(voxel: npt.NDArray[np.integer]) -> Index3:
    x, y, z = voxel.tolist()
    return x, y, z
