"""The model thread: one for a window's life, since a network is quickest on the thread that warmed it up."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from backend.inference.canvas import MaskPatch
from backend.inference.loading import load_engine, resolve
from backend.inference.prompts import Prompts
from backend.volume import Volume

if TYPE_CHECKING:
    from backend.inference.engine import Engine
    from backend.inference.solver import Solver


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and where: names or paths as `load_engine` takes them."""

    model: str
    device: str


@dataclass(frozen=True, eq=False)
class Request:
    """What the window wants to know. Arrays, never layers: the thread must not touch napari.

    Args:
        generation: rises with every request, so that an answer which nobody waits for any more is dropped.
        choice: model and device.
        volume: the image.
        prompts: of the open object, oldest first.
        extend: follow the object beyond the first window.
        prepare: only embed what the prompts will need.
    """

    generation: int
    choice: ModelChoice
    volume: Volume
    prompts: Prompts
    extend: bool
    prepare: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """The object so far; `final` if no more of it follows."""

    generation: int
    patch: MaskPatch | None
    windows: int
    final: bool


@dataclass(frozen=True, eq=False)
class Failure:
    """The request ended in an error."""

    generation: int
    error: Exception


class ModelThread(QObject):
    """Takes the newest request, drops older ones that wait, and stops one that is superseded at its next step.

    The signals arrive in the thread that made this object.
    """

    answered = Signal(object)
    failed = Signal(object)
    loading = Signal(int, object, object)  # generation, bytes done, bytes in all

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._waiting: Request | None = None
        self._newest = 0
        self._serving: ModelChoice | None = None
        self._closed = False
        self._forgets = False
        self._kept: Volume | None = None
        self._cancel_download = threading.Event()
        self._engine: tuple[ModelChoice, Engine] | None = None
        self._solver: tuple[tuple[Engine, Volume, bool], Solver] | None = None
        self._thread = threading.Thread(target=self._run, name="samed3d-model", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Ask; whatever was asked before and is not done yet is given up."""
        with self._changed:
            self._waiting = request
            self._newest = request.generation
            if request.choice != self._serving:
                self._cancel_download.set()  # of weights that are not wanted any more
            self._changed.notify()

    def cancel(self, generation: int) -> None:
        """Give up everything asked before `generation`."""
        with self._changed:
            self._waiting = None
            self._newest = generation
            self._cancel_download.set()

    def forget_all_but(self, kept: Volume | None) -> None:
        """Keep no other image in memory that was asked about, once the request in work is done."""
        with self._changed:
            self._forgets, self._kept = True, kept
            self._changed.notify()

    def close(self) -> None:
        """End the thread at its next step."""
        with self._changed:
            self._closed = True
            self._waiting = None
            self._cancel_download.set()
            self._changed.notify()
        # Not longer: a step of the network cannot be stopped, and a window that closes must not hang.
        self._thread.join(timeout=2)

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own: the window's goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while self._serve_next():
            pass  # and nothing of a request is kept

    def _serve_next(self) -> bool:
        request = self._next()
        if request is None:
            return False
        try:
            self._serve(request)
        except Exception as error:  # whatever it is, it belongs to the user, not to a dead thread
            self._emit(self.failed, Failure(request.generation, error))
        return True

    def _next(self) -> Request | None:
        with self._changed:
            self._drop_forgotten()
            while not self._closed and self._waiting is None:
                self._changed.wait()
                self._drop_forgotten()
            request, self._waiting = self._waiting, None
            self._cancel_download.clear()
            self._serving = request.choice if request else None
            return None if self._closed else request

    def _drop_forgotten(self) -> None:
        if self._forgets and self._solver is not None and self._solver[0][1] is not self._kept:
            self._solver = None
        self._forgets, self._kept = False, None

    def _serve(self, request: Request) -> None:
        solver = self._solver_for(request)
        if request.prepare:
            if request.prompts:
                solver.prepare(request.prompts[0])
            self._emit(self.answered, Answer(request.generation, None, 0, True))
            return
        canvas = None
        for canvas in solver.solve(request.prompts, lambda: self._superseded(request)):
            if self._superseded(request):
                return
            patch = solver.predictor.paint(canvas)
            self._emit(self.answered, Answer(request.generation, patch, canvas.looks, False))
        if canvas is not None:
            self._emit(self.answered, Answer(request.generation, None, canvas.looks, True))

    def _superseded(self, request: Request) -> bool:
        with self._changed:
            return self._closed or request.generation < self._newest

    def _solver_for(self, request: Request) -> Solver:
        from backend.inference.predictor import Predictor
        from backend.inference.solvers import make_solver

        key = (self._engine_for(request), request.volume, request.extend)
        if self._solver is None or self._solver[0] != key:
            self._solver = (key, make_solver(Predictor(key[0], request.volume), request.extend))
        return self._solver[1]

    def _engine_for(self, request: Request) -> Engine:
        choice = ModelChoice(resolve(request.choice.model), request.choice.device)
        if self._engine is None or self._engine[0] != choice:

            def progress(done: int, total: int | None) -> None:
                self._emit(self.loading, self._newest, done, total)  # also for clicks made in the meantime

            engine = load_engine(choice.model, choice.device, progress=progress, cancel=self._cancel_download)
            self._engine = (choice, engine)  # only now: a model that fails to load leaves the old one in place
        return self._engine[1]

    def _emit(self, signal: Signal, *values: object) -> None:
        if not self._closed:
            signal.emit(*values)
