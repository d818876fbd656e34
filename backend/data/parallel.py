"""Jobs over processes of this machine or over a Dask cluster; a worker that dies takes only its own job with it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from backend.errors import ErrorCode, SamMed3DError
from backend.extras import extra

J = TypeVar("J")
R = TypeVar("R")

# Windows waits for no more at once, so that Python refuses a larger pool there.
_MOST_ON_WINDOWS = 61


class WorkerDiedError(Exception):
    """The process that worked on a job ended before it answered: killed, out of memory, or crashed in a library."""


def run_processes(work: Callable[[J], R], jobs: Iterable[J], workers: int) -> Iterator[tuple[J, R | WorkerDiedError]]:
    """Do jobs in processes, and give each with its result in the order in which they end.

    When a process dies, all that were running are under suspicion: each is done again in a process of its own,
    and the ones that die there too are the culprits.

    Args:
        work: a function that can be pickled; what it raises is raised here, and ends the run.
        jobs: what it is called with.
        workers: processes.
    """
    waiting = deque(jobs)
    while waiting:
        for job in (yield from _in_pool(work, waiting, workers)):
            for culprit in (yield from _in_pool(work, deque([job]), 1)):
                yield culprit, WorkerDiedError()


def _in_pool(work: Callable[[J], R], waiting: deque[J], workers: int) -> Generator[tuple[J, R], None, list[J]]:
    """Do jobs from the left of `waiting` until it is empty or a process dies.

    Returns:
        the jobs that were running when a process died.
    """
    # Spawned, not forked: a fork of a process with threads (of NumPy, Dask or Qt) may hang.
    context = multiprocessing.get_context("spawn")
    running: dict[Future[R], J] = {}
    with ProcessPoolExecutor(pool_size(workers), context, _begin_worker) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:  # one in work and one at hand for each
                    future = pool.submit(work, waiting[0])
                    running[future] = waiting.popleft()  # only now: a broken pool takes no job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            return list(running.values())
        finally:
            pool.shutdown(cancel_futures=True)  # and wait: who goes on must not find jobs still writing
    return []


def pool_size(workers: int) -> int:
    """So many processes, or as many as this system's pools may have."""
    return min(workers, _MOST_ON_WINDOWS) if sys.platform == "win32" else workers


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, which lets running jobs end; and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a worker holds the writing end of its own queue, so it would wait for jobs for ever


def run_on_dask(work: Callable[[J], R], jobs: Iterable[J], scheduler: str) -> Iterator[tuple[J, R | WorkerDiedError]]:
    """Do jobs on a Dask cluster, whose machines must see the same files, and give each with its result.

    Dask itself tries the jobs of a worker that died again, three times as it is shipped; what then seems to kill
    workers is done once more at the end, with nothing beside it.

    Args:
        work: a function that can be pickled; what it raises is raised here, and ends the run.
        jobs: what it is called with.
        scheduler: its address, such as tcp://10.0.0.1:8786.

    Raises:
        SamMed3DError: there is no scheduler at that address, or Dask is not installed.
    """
    distributed = extra("distributed")
    try:
        client = distributed.Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"There is no Dask scheduler at {scheduler}: {error}.",
            "Start one with `dask scheduler` and workers with `dask worker`, and give its address.",
        ) from error
    with client:
        # Not pure: a job of an earlier run is done again, since Dask does not know of the files.
        futures = {client.submit(work, job, pure=False): job for job in jobs}
        suspects = []
        for future in distributed.as_completed(list(futures), loop=client.loop):
            job = futures.pop(future)
            try:
                yield job, future.result()
            except distributed.KilledWorker:  # by this job, or by another one that its worker had in hand
                suspects.append(job)
            future.release()
        for job in suspects:
            try:
                yield job, client.submit(work, job, pure=False).result()
            except distributed.KilledWorker:
                yield job, WorkerDiedError()
