"""Replacing a file whole or not at all."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}-")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place if all goes well.

    The data and then the folder entry are forced to the disk, so that after a crash or a full disk
    there is either the old file or the whole new one. A link stays, and its target is replaced.

    Args:
        path: file to create or replace; the temporary name ends as it does, but in lower case, for what writes
            there may know no other.

    Raises:
        OSError: the folder or the disk refuses; the old file is intact and the temporary file is gone.
    """
    target = path.resolve()
    temporary = target.with_name(f".{secrets.token_hex(4)}-{path.name.lower()}")
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened, and renaming is journalled
        with suppress(OSError):  # nor can some folders here; the file is replaced all the same
            _sync(target.parent, os.O_RDONLY)


def leftovers(folder: Path) -> Iterator[Path]:
    """The temporary files in a folder that `replacing` left there when it was killed."""
    return (path for path in folder.glob(".*") if _TEMPORARY.match(path.name) and path.is_file())


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
