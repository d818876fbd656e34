"""Checks made before memory is allocated, so that a header's lie costs nothing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.io.faults import truncated

MAX_DEFLATE_RATIO = 1032  # a deflate stream cannot expand further: 258 bytes from 2 bits

_MIB = 2**20


def check_present(path: Path, expected: int, present: int) -> None:
    """Refuse a file that can hold at most `present` of the `expected` bytes."""
    if present < expected:
        raise truncated(path, expected, present)


def check_voxels(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse a header without three axes of at least one voxel, or whose voxels are not one real number."""
    if len(shape) < 3 or min(shape) < 1:
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"{path} does not hold a volume: its size is {' x '.join(map(str, shape)) or 'empty'}.",
            "Choose an image with three axes and at least one voxel along each; stack 2-D slices first.",
        )
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"{path} holds voxels of type {dtype}, not one real number of at most 64 bits each.",
            "Convert the image to one intensity a voxel (its magnitude, or one colour channel).",
        )


def check_memory(path: Path, needed: int) -> None:
    """Refuse a volume whose reading takes `needed` bytes of memory when fewer are available."""
    available = available_memory()
    if available is not None and needed > available:
        raise too_large(path, needed)


def allocate(path: Path, nbytes: int) -> npt.NDArray[np.uint8]:
    """Return `nbytes` of uninitialised memory, or refuse with the numbers of bytes needed and available."""
    check_memory(path, nbytes)
    try:
        return np.empty(nbytes, np.uint8)
    except MemoryError as error:  # a limit on the process, which available_memory does not see
        raise too_large(path, nbytes) from error


def too_large(path: Path, needed: int) -> SamMed3DError:
    """Error that says how much memory a volume needs and how much there is."""
    available = available_memory()
    present = "an unknown amount is" if available is None else f"{available / _MIB:.0f} MiB are"
    return SamMed3DError(
        ErrorCode.VOLUME_TOO_LARGE,
        f"Reading {path} needs {needed / _MIB:.0f} MiB of memory, but {present} available to this program.",
        "Close other programs, or crop or downsample the image.",
    )


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min([int(line.split()[1]) * 1024, *_left_by_limits()])
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # macOS tells only the size of the memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_by_limits(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes that each limit on this process leaves, of a container or of a job of a cluster (Linux's cgroups, v2)."""
    lines = own.read_text().splitlines() if own.exists() else []
    within = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if within is None:
        return
    for folder in (mounted / within, *(mounted / within).parents):
        with suppress(OSError, ValueError, KeyError):  # no limit ("max"), or a system that does not tell all of this
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield limit - used + int(counts["inactive_file"]) + int(counts["active_file"])  # what files fill can be had


class FramesError(SamMed3DError):
    """The file has other frames than were asked for.

    Attributes:
        frames: how many it has.
    """

    def __init__(self, code: ErrorCode, problem: str, remedy: str, frames: int = 0) -> None:
        super().__init__(code, problem, remedy)
        self.frames = frames


def frame_index(path: Path, frames: int, frame: int | None) -> int:
    """Return which of `frames` volumes to read, refusing to choose among several without being told.

    Args:
        path: named in the error.
        frames: how many volumes the file holds.
        frame: the wanted one, from 0, or None for the only one.

    Raises:
        FramesError: there are several and none was named, or the named one does not exist.
    """
    if frame is None and frames == 1:
        return 0
    if frame is not None and 0 <= frame < frames:
        return frame
    asked = "several frames" if frame is None else f"no frame {frame}"
    if frames == 1:
        raise FramesError(
            ErrorCode.VOLUME_DIMENSIONS, f"{path} holds no frame {frame}: it is one volume.", "Name no frame.", frames
        )
    raise FramesError(
        ErrorCode.VOLUME_DIMENSIONS,
        f"{path} holds {asked}: it has {frames} (time points or channels).",
        f"Say which frame to read, from 0 to {frames - 1} (frame=N in a script, --frame N on the command line); for "
        "napari save that one as a file of its own.",
        frames,
    )
