"""How processes are started here, for ranks and for loading samples, and how they notice that they are alone."""

import threading
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnContext


def process_context() -> SpawnContext:
    """Spawn: a process with threads, and perhaps a GPU, must not be forked, and a fork server would die of the SIGTERM
    that a scheduler sends to all processes of a job, and take the others with it.
    """
    return get_context("spawn")


def when_parent_ends(then: Callable[[], None]) -> None:
    """In a process that was so started: call a function, in a thread, once the one that started it is gone."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        then()

    threading.Thread(target=wait, daemon=True).start()
