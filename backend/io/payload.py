"""Voxels from a stream: inflated in pieces, counted, and read to the end so that checksums are verified."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from backend.io.faults import corrupt
from backend.io.guard import allocate, frame_index

_CHUNK = 2**18
_SLACK = 2**20  # padding that writers may leave after the voxels; more means that the header is wrong
_GZIP_MAGIC = b"\x1f\x8b"


class Stream(Protocol):
    """What is asked of a file or an inflated stream: up to `size` bytes, none only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, or none at the end."""


class Inflated:
    """The content of a gzip (also of several members) or zlib file, verified up to its checksum.

    Args:
        raw: compressed file, positioned at the first byte of the compressed data.

    Raises:
        EOFError: from `read`, when the compressed data ends early.
        zlib.error: from `read`, when the data or its checksum is wrong.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._inflate = _decompressor()
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, or none at the verified end."""
        while not self._inflate.eof or self._open_next_member():
            compressed = self._pending or self._raw.read(_CHUNK)
            content = self._inflate.decompress(compressed, size)
            self._pending = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if content:
                return content
            if not compressed and not self._inflate.eof:
                raise EOFError("the compressed data ends before its checksum")
        return b""

    def _open_next_member(self) -> bool:
        """Whether another gzip member follows. Anything else is padding, and the end."""
        self._pending += self._raw.read(max(0, len(_GZIP_MAGIC) - len(self._pending)))
        if not self._pending.startswith(_GZIP_MAGIC):
            return False
        self._inflate = _decompressor()
        return True


def _decompressor() -> "zlib._Decompress":
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: a gzip or a zlib header, whichever is there


def is_gzip(file: BinaryIO) -> bool:
    """Whether the file begins as gzip does; its position is left at 0."""
    file.seek(0)
    start = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return start == _GZIP_MAGIC


@dataclass(frozen=True)
class Layout:
    """How voxels lie in a stream.

    Args:
        skip: bytes between the stream's position and the first voxel.
        shape: voxels along (x, y, z, frame axes...), the first varying fastest.
        dtype: of one voxel, with its byte order.
    """

    skip: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def frames(self) -> int:
        """How many volumes there are."""
        return math.prod(self.shape[3:])

    @property
    def frame_bytes(self) -> int:
        """Bytes of one volume."""
        return math.prod(self.shape[:3]) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes from the stream's position to the end of the last voxel."""
        return self.skip + self.frames * self.frame_bytes


def read_frame(stream: Stream, path: Path, layout: Layout, frame: int | None) -> npt.NDArray[Any]:
    """Read one volume out of a stream, and the stream to its end.

    Returns:
        array of shape `layout.shape[:3]`, axes (x, y, z), in native byte order.

    Raises:
        SamMed3DError: no such frame, too large for the memory, or more bytes than the layout explains.
        EOFError: the stream ends early.
    """
    index = frame_index(path, layout.frames, frame)
    buffer = allocate(path, layout.frame_bytes)
    _skip(stream, layout.skip + index * layout.frame_bytes)
    _fill(stream, buffer.data)
    _skip(stream, (layout.frames - 1 - index) * layout.frame_bytes)
    _finish(stream, path, layout)
    array = buffer.view(layout.dtype)
    if not layout.dtype.isnative:
        array = array.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
    return array.reshape(layout.shape[:3], order="F")


def read_exactly(stream: Stream, size: int) -> bytes:
    """Return `size` bytes (of a header: they are held in memory), or raise EOFError."""
    content = bytearray(size)
    _fill(stream, memoryview(content))
    return bytes(content)


def inflated_size(raw: BinaryIO, limit: int) -> int:
    """Bytes that a compressed stream expands to, counted no further than just beyond `limit`."""
    stream = Inflated(raw)
    size = 0
    while size <= limit and (content := stream.read(_CHUNK)):
        size += len(content)
    return size


def _fill(stream: Stream, target: memoryview) -> None:
    position = 0
    while position < len(target):
        content = stream.read(min(_CHUNK, len(target) - position))
        if not content:
            raise EOFError(f"{len(target) - position} bytes are missing")
        target[position : position + len(content)] = content
        position += len(content)


def _skip(stream: Stream, size: int) -> None:
    while size > 0:
        content = stream.read(min(_CHUNK, size))
        if not content:
            raise EOFError(f"{size} bytes are missing")
        size -= len(content)


def _finish(stream: Stream, path: Path, layout: Layout) -> None:
    """Read to the end, so that the trailing checksum is verified, but not through a bomb."""
    extra = 0
    while content := stream.read(_CHUNK):
        extra += len(content)
        if extra > _SLACK:
            raise corrupt(path, f"more than {_SLACK} bytes follow the {layout.end} that its header explains")
