"""What worker processes do in the tests; they import it by name."""

import os
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def die_at_seven(number: int) -> int:
    if number == 7:
        os._exit(9)
    return number * number


def raise_at_seven(number: int) -> int:
    if number == 7:
        raise LookupError(number)
    return number


def note_slowly(path: str) -> None:
    time.sleep(0.5)
    Path(path).touch()


def note_and_sleep(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
