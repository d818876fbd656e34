"""Cases to results: in this process or in several, each case by itself, so that one that fails costs no other."""

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from backend.data.parallel import pool_size
from backend.errors import SamMed3DWarning, told
from backend.evaluation.gallery import Gallery
from backend.evaluation.metrics import Bools
from backend.evaluation.protocol import Trial, challenge_trial, paper_trial
from backend.evaluation.results import CaseResult, Failure, Row, Settings, load_result, rows_of, save_result, stamp_of
from backend.evaluation.segmenters import Segmenter, make_segmenter
from backend.evaluation.targets import Case, OpenCase, Target, choose_targets, rng_of
from backend.models import zoo
from backend.volume import Volume

SOURCE = Path(__file__).parents[1]
"""The folder of the backend's code."""


def evaluate(cases: Sequence[Case], settings: Settings, out: Path, jobs: int = 1) -> Iterator[CaseResult]:
    """Measure every case, keeping each result in `out` as soon as it is there; those that are there already first.

    Args:
        cases: names are unique.
        settings: what to measure.
        out: folder of the results.
        jobs: processes.

    Raises:
        SamMed3DError: a model cannot be loaded, or a result cannot be written.
    """
    segmenters(settings)  # a model that is not there should stop the run now, not fail every case
    todo: list[tuple[Case, str]] = []
    common = (*_weights(settings), *SOURCE.rglob("*.py"))  # what another version measured is not mixed with this one's
    for case in cases:
        stamp = stamp_of(settings, (*case.files, *common), case.known)
        known = load_result(out, case.name, stamp)
        if known is None:
            todo.append((case, stamp))
        else:
            yield known
    for result in _alone(todo, settings) if jobs == 1 else _together(todo, settings, jobs):
        measured = result.model_copy(update={"jobs": jobs})
        if not result.failures:  # what failed is tried again by the next run
            save_result(out, measured)
        yield measured


def _alone(todo: Sequence[tuple[Case, str]], settings: Settings) -> Iterator[CaseResult]:
    for case, stamp in todo:
        yield evaluate_case(case, stamp, settings, segmenters(settings))


def _together(todo: Sequence[tuple[Case, str]], settings: Settings, jobs: int) -> Iterator[CaseResult]:
    """In processes. A process that is killed takes the pool with it: then each case left gets a pool of its own."""
    left = dict(enumerate(todo))
    try:
        with _pool(jobs, jobs) as pool:
            futures = {pool.submit(_work, case, stamp, settings): number for number, (case, stamp) in left.items()}
            try:
                for future in as_completed(futures):
                    result = future.result()
                    del left[futures[future]]
                    yield result
            finally:  # after an error or Ctrl-C nobody waits for the others
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        for case, stamp in left.values():
            yield _by_itself(case, stamp, settings, jobs)


def _by_itself(case: Case, stamp: str, settings: Settings, jobs: int) -> CaseResult:
    try:
        with _pool(1, jobs) as pool:
            return pool.submit(_work, case, stamp, settings).result()
    except BrokenProcessPool:
        told = "the process was killed, most often for want of memory"
        return CaseResult(
            stamp=stamp, case=case.name, failures=(Failure(case=case.name, model=None, target=None, error=told),)
        )


def _pool(workers: int, jobs: int) -> ProcessPoolExecutor:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # spawn: a fork of a process whose torch has threads, or CUDA, may hang
    return ProcessPoolExecutor(pool_size(workers), get_context("spawn"), torch.set_num_threads, (threads,))


def _work(case: Case, stamp: str, settings: Settings) -> CaseResult:
    return evaluate_case(case, stamp, settings, segmenters(settings))


@functools.lru_cache(maxsize=1)
def segmenters(settings: Settings) -> Mapping[str, Segmenter]:
    """The models of a run, loaded once a process."""
    return {spec: make_segmenter(spec, settings.device, settings.precision, settings.seed) for spec in settings.models}


def _weights(settings: Settings) -> list[Path]:
    """Files of weights, so that a model that was trained further is measured anew."""
    return [zoo.weights_path(spec) if spec in zoo.names() else Path(spec).expanduser() for spec in settings.models]


def evaluate_case(case: Case, stamp: str, settings: Settings, models: Mapping[str, Segmenter]) -> CaseResult:
    """Measure one case; whatever goes wrong in it ends in its `failures`."""
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SamMed3DWarning)
        visit = Visit(case, settings, models)
        visit.run()
    return CaseResult(
        stamp=stamp,
        case=case.name,
        rows=tuple(visit.rows),
        failures=tuple(visit.failures),
        left_out=visit.left_out,
        pictures=visit.gallery.pictures(),
        notes=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
        seconds=time.perf_counter() - begin,
    )


class Visit:
    """One case being measured.

    Args:
        case: to read.
        settings: what to measure.
        models: what answers, by name.
    """

    def __init__(self, case: Case, settings: Settings, models: Mapping[str, Segmenter]) -> None:
        self._case = case
        self._settings = settings
        self._models = models
        self.rows: list[Row] = []
        self.failures: list[Failure] = []
        self.gallery = Gallery()
        self.left_out = 0

    def run(self) -> None:
        """Measure every target of the case that is to be measured."""
        self._guarded(None, None, self._targets)

    def _targets(self) -> None:
        opened = self._case.open()
        settings = self._settings
        chosen = list(choose_targets(opened.targets, settings.min_volume_ml, settings.per_case, settings.seed))
        self.left_out = len(opened.targets) - len(chosen)
        for target in chosen:
            self._guarded(None, target, functools.partial(self._target, opened, target))

    def _target(self, opened: OpenCase, target: Target) -> None:
        mask = opened.mask(target)
        if not mask.any():
            raise ValueError("the mask is empty")
        for model in self._models:
            self._guarded(model, target, functools.partial(self._model, opened.volume, mask, target, model))

    def _model(self, volume: Volume, mask: Bools, target: Target, model: str) -> None:
        for repeat in range(self._settings.repeats):
            trial = self._trial(volume, mask, target, model, repeat)
            self.rows += rows_of(target, model, repeat, trial)
            self.gallery.offer(model, target, volume, trial)

    def _trial(self, volume: Volume, mask: Bools, target: Target, model: str, repeat: int) -> Trial:
        segmenter, settings = self._models[model], self._settings
        if settings.protocol == "challenge":
            return challenge_trial(segmenter, volume, mask, settings.tolerance_mm)
        rng = rng_of(settings.seed, "clicks", target.case, target.key, repeat)  # not the model: all start alike
        return paper_trial(segmenter, volume, mask, counts=settings.clicks, rng=rng, tolerance_mm=settings.tolerance_mm)

    def _guarded(self, model: str | None, target: Target | None, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, it is listed, and the other targets and cases are measured
            name = target.name if target else None
            self.failures.append(Failure(case=self._case.name, model=model, target=name, error=told(error)))
