"""Clicks at any voxel size: one window an object, which zooms until the object fills a good part of it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy import ndimage

from backend.geometry import extract_crop
from backend.inference.canvas import Canvas, Floats, MaskPatch, Window
from backend.inference.predictor import Predictor, spacing_of
from backend.inference.prompts import Click, InitialMask, Prompt, Prompts, centre_of, check_prompt, ends_of
from backend.inference.retouch import edited, innermost, retouched, to_border_mm
from backend.inference.sharpening import finer_windows, without_islands
from backend.inference.solver import Solver, logits_of
from backend.inference.views import Bools, Points, Span, View, Views, view_of
from backend.inference.walking import averaged, share_of, walked
from backend.volume import Volume

# The first window is about as wide as the volume (the geometric mean of its sides), and at most this (mm).
FIRST_MM = 96.0
# The object's longest side as a share of the window's may be between these.
LEAST_FILL, MOST_FILL = 0.15, 0.85
# A window is at least so many times as wide as the object reaches, going by the clicks.
ROOM = 4.0
# What an answer loses for being cut off by a face of its window; heeding one of ten clicks counts as much.
CUT_OFF = 0.1
# Windows tried for one prompt.
LOOKS = 4
# A mask is retouched in a window so many times as wide as its border is away from the click, and at least so wide (mm).
SIDE, LEAST_MM = 8.0, 64.0
# Beside a click there must be so many voxels of its window.
MARGIN = 2
# By which share of its window an object goes on beyond a face, at a guess.
GOES_ON = 0.25


class ZoomingSolver(Solver):
    """For networks of any voxel size, which are given all clicks so far.

    A click is answered in a window of a first guess. Where the object is small in it, or a negative click says that it
    must be, the window becomes finer, where it touches the faces wider, and the click is answered again; the answer
    that heeds the clicks best stays. Later clicks keep the window for as long as the object fits. The border of a large
    object is then seen anew in finer windows around it, and the next click begins from that.
    An initial mask is trusted: clicks after it change what is around them, in a window that holds all of it, or in a
    finer one around them.
    A box is taken as a click at its centre and as the size of the window; after an initial mask it says nothing new.
    Answers to clicks alone are averaged with a random walk's, as far as the model's `walk_share` says.
    """

    def __init__(self, predictor: Predictor, extend: bool = True) -> None:
        super().__init__(predictor, extend)
        self._views = Views(predictor)

    def prepare(self, prompt: Prompt) -> None:
        """Compute the embedding of the first look at `prompt`."""
        check_prompt(self.predictor.volume, prompt)
        view = self._first_view(prompt)
        self.predictor.embedding(view.start, view.level)

    def _first_view(self, prompt: Prompt) -> View:
        if isinstance(prompt, Click):
            return self._views.around(prompt.point, self._first_mm())
        ends = ends_of(prompt)
        return self._views.fitted(Span(np.minimum(*ends), np.maximum(*ends)))

    def _first_mm(self) -> float:
        sides = np.multiply(self.predictor.volume.shape, self.predictor.volume.spacing)
        return min(float(np.cbrt(sides.prod())), FIRST_MM)

    def _answer(self, canvas: Canvas, prompts: Prompts) -> Canvas:
        newest = prompts[-1]
        if isinstance(newest, InitialMask):
            return replace(self._given(newest.patch, self._first_view(newest)), given=newest.patch)
        if canvas.given is not None:
            return self._retouch(canvas, canvas.given, prompts, newest) if isinstance(newest, Click) else canvas
        view = self._start(canvas, newest)
        # Also where nobody waited for it, so that the same clicks have the same answer at any pace.
        before = [canvas, *self._sharpened(canvas, prompts[:-1])][-1]
        answers: dict[View, Canvas] = {}
        while True:
            answers[view] = self._look(view, before, *_clicks(prompts))
            wanted = self._wanted(view, answers[view], prompts) if self.extend and len(answers) < LOOKS else None
            if wanted is None or wanted in answers:
                # Of equals the last.
                best = max(reversed(answers.items()), key=lambda item: self._trust(item[0], item[1], prompts))
                return self._without_strays(best[0], self._averaged(*best, prompts), prompts)
            view = wanted

    def _retouch(self, before: Canvas, given: MaskPatch, prompts: Prompts, click: Click) -> Canvas:
        """An initial mask with what a click changes in it."""
        view = self._retouched_view(given, click)
        voxel = self._views.voxels(view, np.array([click.point]))
        if not self._views.inside(voxel)[0]:
            return before
        before = self._given(given, view)
        seen, answer = before.windows[0].logits, self._look_inside(view, before, prompts)
        after = self._canvas(view, retouched(seen, answer, voxel[0], positive=click.positive))
        changed = (after.windows[0].logits > 0) != (seen > 0)
        near = ndimage.binary_dilation(changed, np.ones((3, 3, 3))).astype(np.float32)
        now, around = self.predictor.paint(after), self.predictor.paint(self._canvas(view, 2 * near - 1))
        return replace(after, given=edited(given, now, around, positive=click.positive))

    def _retouched_view(self, given: MaskPatch, click: Click) -> View:
        """A window that holds all of a mask, and a positive click; around the click where that is finer."""
        if not given.mask.any():
            return self._first_view(click)
        ends = np.array([[side.start, side.stop - 1] for side in given.slices], dtype=np.float64).T
        if click.positive:
            ends = np.concatenate([ends, [click.point]])
        whole = self._views.fitted(Span(ends.min(0), ends.max(0)))
        across_mm = to_border_mm(given, click.point, self.predictor.volume.spacing)
        near = self._views.around(click.point, max(LEAST_MM, SIDE * across_mm))
        return near if near.level < whole.level else whole

    def _look_inside(self, view: View, before: Canvas, prompts: Prompts) -> Floats:
        """The answer in a window with a positive click where there is none: without any the network finds nothing."""
        points, labels = _clicks(prompts)
        mask = self._views.seen(before, view) > 0
        if mask.any() and not self._views.inside(self._views.voxels(view, points[labels])).any():
            inside = self._views.points(view, innermost(mask)[None])
            points, labels = np.concatenate([points, inside]), np.append(labels, True)
        return self._look(view, before, points, labels).windows[0].logits

    def _follow(self, canvas: Canvas, prompts: Prompts, *, explore: bool) -> Iterator[Canvas]:
        """Show the object as it was found at once, and then sharper."""
        yield canvas
        if explore:
            yield from self._sharpened(canvas, prompts)

    def _sharpened(self, canvas: Canvas, prompts: Prompts) -> Iterator[Canvas]:
        """See the border of a large object anew, in finer windows around it, as far as that was not done."""
        trusted = any(isinstance(prompt, InitialMask) for prompt in prompts)
        finer = (canvas.finer or finer_windows(self._views, canvas)) if self.extend and not trusted else None
        if finer is None:
            return
        for window in finer.windows:
            if not window.prompted:
                logits = self._look_inside(View(finer.level, window.start), replace(canvas, finer=None), prompts)
                sharp = Window(window.start, without_islands(logits, window.logits > 0), prompted=True)
                finer = finer.with_window(sharp)
                yield replace(canvas, finer=finer)

    def _averaged(self, view: View, answer: Canvas, prompts: Prompts) -> Canvas:
        """The answer averaged with a random walk's, in a window of the first width around all clicks."""
        share = share_of(self.predictor.engine.model.walk_share, len(prompts))
        points, labels = _clicks(prompts)
        if not share or not labels.any() or not all(isinstance(prompt, Click) for prompt in prompts):
            return answer
        sides = np.ptp(points, axis=0) * self.predictor.volume.spacing
        first = self._first_mm()
        around = self._views.around(_middle(points), max(first, float(sides.max()) + first / 2))
        where = around.start, around.level
        found = walked(
            self.predictor.read(*where), self.predictor.inside(*where), self._views.voxels(around, points), labels
        )
        if found is None:
            return answer
        logits = answer.windows[0].logits
        found, there = self._views.moved(found, around, view)
        return self._canvas(view, np.where(there, averaged(logits, found, share), logits))

    def _without_strays(self, view: View, answer: Canvas, prompts: Prompts) -> Canvas:
        """The answer without pieces in which nobody clicked."""
        logits = answer.windows[0].logits
        points, labels = _clicks(prompts)
        if not labels.any():
            return answer
        kept = clicked_piece(logits > 0, self._views.voxels(view, points[labels]))
        return self._canvas(view, np.where(kept, logits, -np.abs(logits)))

    def _start(self, canvas: Canvas, newest: Prompt) -> View:
        """The window as it is, or one that holds the object so far and a positive click outside of it."""
        view = view_of(canvas)
        if view is None or not isinstance(newest, Click):
            return self._first_view(newest)
        click = np.array([newest.point])
        if not newest.positive or self._views.inside(self._views.voxels(view, click), margin=MARGIN)[0]:
            return view
        found = np.argwhere(canvas.windows[0].logits > 0)
        corners = np.stack([found.min(0), found.max(0)]) if len(found) else np.zeros((0, 3))
        ends = np.concatenate([click, self._views.points(view, corners.astype(np.float64))])
        return self._views.fitted(Span(ends.min(0), ends.max(0)))

    def _look(self, view: View, before: Canvas, points: Points, labels: Bools) -> Canvas:
        """Answer all clicks in a window, after the object as it was before the newest of them."""
        voxels = self._views.voxels(view, points)
        seen = self._views.inside(voxels)
        logits = self.predictor.decode(
            view.start, voxels[seen] + view.start, labels[seen], self._views.seen(before, view), view.level
        )
        return self._canvas(view, logits)

    def _canvas(self, view: View, logits: Floats) -> Canvas:
        return self.predictor.canvas(view.level).with_window(Window(view.start, logits, prompted=True))

    def _wanted(self, view: View, answer: Canvas, prompts: Prompts) -> View | None:
        """A better window for the object, or None if it fits this one."""
        points, labels = _clicks(prompts)
        piece = clicked_piece(answer.windows[0].logits > 0, self._views.voxels(view, points[labels]))
        box = ndimage.find_objects(piece.view(np.uint8))
        if not box:  # perhaps too small to be seen
            return self._if_closer(view, self._halved(view, points[labels]), points[labels])
        ends = np.array([[side.start, side.stop - 1] for side in box[0]], dtype=np.float64).T
        beyond = self._views.beyond(view, piece)
        share = (ends[1] - ends[0] + 1).max() / self._views.size
        if beyond.any() or share > MOST_FILL:
            ends += GOES_ON * self._views.size * np.stack([-1 * beyond[:, 0], beyond[:, 1]])
            wider = self._fitted(view, ends)
            return wider if wider.level >= view.level else None
        closer = self._fitted(view, ends) if share < LEAST_FILL else self._asked_for(points, labels)
        return self._if_closer(view, closer, points[labels])

    def _if_closer(self, view: View, other: View | None, positive: Points) -> View | None:
        """Another window if it is finer and holds the positive clicks."""
        if other is None or other.level >= view.level:
            return None
        return other if self._views.inside(self._views.voxels(other, positive), margin=MARGIN).all() else None

    def _halved(self, view: View, positive: Points) -> View | None:
        """A window half as wide around the positive clicks."""
        side_mm = self._views.size * spacing_of(view.level)
        return self._views.around(_middle(positive), side_mm / 2) if len(positive) else None

    def _fitted(self, view: View, ends: Points) -> View:
        """The window that fits a box, whose lower and upper end (2, 3) are voxels of a window."""
        corners = self._views.points(view, ends)  # axes of the volume may run against those of the window
        return self._views.fitted(Span(corners.min(0), corners.max(0)))

    def _asked_for(self, points: Points, labels: Bools) -> View | None:
        """The window that negative clicks ask for: ROOM times as wide as the object reaches (mm), going by clicks.

        It reaches to the nearest negative one, or half as far as from one positive one to another.
        """
        at_mm = points * self.predictor.volume.spacing
        positive, negative = at_mm[labels], at_mm[~labels]
        if not len(positive) or not len(negative):
            return None
        apart = np.linalg.norm(positive[:, None] - negative, axis=-1).min()
        reach = max(float(apart), float(np.linalg.norm(np.ptp(positive, axis=0))) / 2)
        # Where the same place is said to be in it and not, no width would do.
        return self._views.around(_middle(points[labels]), ROOM * reach) if reach else None

    def _trust(self, view: View, answer: Canvas, prompts: Prompts) -> float:
        """How far an answer heeds the clicks, and, for half of that, how sure it is: its expected Dice.

        An object that goes on beyond the window is only a part of what it should be.
        """
        logits = answer.windows[0].logits
        probability, mask = 1 / (1 + np.exp(-logits)), logits > 0
        expected = 2 * float(probability[mask].sum()) / max(1.0, float(mask.sum() + probability.sum()))
        cut = CUT_OFF * float(self._views.beyond(view, mask).any())
        return self._heeded(view, answer, prompts) + 0.5 * expected - cut

    def _heeded(self, view: View, answer: Canvas, prompts: Prompts) -> float:
        """The share of the clicks that lie where they should: in the mask, or outside of it."""
        points, labels = _clicks(prompts)
        voxels = self._views.voxels(view, points)
        index = np.rint(voxels.clip(0, self._views.size - 1)).astype(int)
        found = self._views.inside(voxels) & (answer.windows[0].logits[tuple(index.T)] > 0)
        return float(np.mean(found == labels))

    def _given(self, given: MaskPatch, view: View) -> Canvas:
        """A window with logits that say a mask."""
        x, y, z = (slice(0, count) for count in self.predictor.volume.shape)
        mask = Volume(given.within((x, y, z)), self.predictor.volume.affine)
        grid = self.predictor.grid_at(view.level)
        share = extract_crop(mask, grid, view.start, self._views.size, average=True)
        return self._canvas(view, logits_of(share))


def _middle(points: Points) -> Points:
    """The middle (3,) of what points (N, 3) span."""
    middle: Points = (points.min(0) + points.max(0)) / 2
    return middle


def _clicks(prompts: Prompts) -> tuple[Points, Bools]:
    """Volume indices (N, 3) of all clicks since the last initial mask, and which are positive (N,)."""
    masks = [number for number, prompt in enumerate(prompts) if isinstance(prompt, InitialMask)]
    heeded = [p for p in prompts[masks[-1] :] if isinstance(p, Click)] if masks else prompts
    points = [centre_of(prompt) for prompt in heeded]
    labels = [not isinstance(prompt, Click) or prompt.positive for prompt in heeded]
    return np.array(points, dtype=np.float64).reshape(-1, 3), np.array(labels, dtype=bool)


def clicked_piece(mask: Bools, voxels: Points) -> Bools:
    """The connected pieces of a mask (S, S, S) that hold one of the voxels (N, 3); the largest if none does."""
    pieces, count = ndimage.label(mask)
    if not count:
        return mask
    index = np.rint(voxels).astype(int)
    index = index[((index >= 0) & (index < len(mask))).all(axis=1)]
    chosen = set(pieces[tuple(index.T)].tolist()) - {0}
    if not chosen:
        chosen = {int(np.bincount(pieces.ravel())[1:].argmax()) + 1}
    return np.isin(pieces, list(chosen))
