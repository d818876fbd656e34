"""Stored arrays: chunked, compressed, with a checksum a chunk, of which a window is read without the rest (Blosc2)."""

import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.extras import extra
from backend.geometry import Index3
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.io.faults import refused

SUFFIX = ".b2nd"
# Voxels along each axis of what is read at once: a window of 128^3 touches 8 to 27 chunks.
CHUNK = 64


class StoredArray:
    """A stored array (x, y, z), read by windows; every chunk that a window touches is checked first.

    Blosc2 has no checksums: a flipped bit of a file gives wrong voxels without a word. So the CRC-32 of each
    compressed chunk is kept in the file's metadata, beside a copy of the header's fields.

    Raises:
        SamMed3DError: DATA_CORRUPT or FILE_READ, naming the file; also from reading a window.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        blosc2 = extra("blosc2")
        with _checked(path):
            path.open("rb").close()  # Blosc2 takes one that may not be read for missing
            self._array: Any = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
            checks = self._array.schunk.vlmeta["checks"]
            self._checksums = checks["chunks"]
            if checks["layout"] != _layout(self._array):
                raise ValueError("its header does not fit its metadata")
            self.shape: tuple[int, ...] = self._array.shape
            self.dtype: np.dtype[Any] = self._array.dtype

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> npt.NDArray[Any]:
        """The window that three slices without steps cut out."""
        bounds = [part.indices(n)[:2] for part, n in zip(key, self.shape, strict=True)]
        with _checked(self.path):
            for chunk in self._chunks(bounds):
                if zlib.crc32(self._array.schunk.get_chunk(chunk)) != self._checksums[chunk]:
                    raise ValueError(f"the checksum of its chunk {chunk} is wrong")
            window: npt.NDArray[Any] = self._array[tuple(slice(*bound) for bound in bounds)]
        return window

    def _chunks(self, bounds: list[tuple[int, int]]) -> Iterator[int]:
        """The numbers, in the order of the file, of the chunks that a window touches."""
        sizes = self._array.chunks
        counts = [-(-n // size) for n, size in zip(self.shape, sizes, strict=True)]
        touched = [
            range(start // size, -(-stop // size)) if stop > start else range(0)
            for (start, stop), size in zip(bounds, sizes, strict=True)
        ]
        for place in itertools.product(*touched):
            yield int(np.ravel_multi_index(place, counts))


def write_array(path: Path, values: npt.NDArray[Any], shape: Index3 | None = None, start: Index3 = (0, 0, 0)) -> None:
    """Store `values` (x, y, z), replacing `path` whole or not at all.

    Args:
        path: ends in `SUFFIX`.
        values: what is not 0, or the whole array.
        shape: of the whole array; that of `values` if it is None.
        start: where `values` begin in it.

    Raises:
        SamMed3DError: FILE_WRITE, or DEPENDENCY_MISSING.
    """
    blosc2 = extra("blosc2")
    shape = shape or (values.shape[0], values.shape[1], values.shape[2])
    window = tuple(slice(first, first + n) for first, n in zip(start, values.shape, strict=True))
    with writing(path):
        # Made in memory: on a file, Blosc2 looks at every file that the process has ever written to, at each write.
        array = blosc2.zeros(
            shape,
            dtype=values.dtype,
            chunks=tuple(min(CHUNK, n) for n in shape),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
        )
        array[window] = np.ascontiguousarray(values)
        with replacing(path) as temporary:
            temporary.write_bytes(array.to_cframe())
            written = blosc2.open(str(temporary), mode="a")  # in a file, chunks of zeros have other bytes
            chunks = [zlib.crc32(written.schunk.get_chunk(chunk)) for chunk in range(written.schunk.nchunks)]
            written.schunk.vlmeta["checks"] = {"layout": _layout(written), "chunks": chunks}


def stored_type(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image's voxels as int16 where that loses nothing, else as float32."""
    limits = np.iinfo(np.int16)
    with np.errstate(invalid="ignore"):  # of NaN to an integer
        whole = values.astype(np.int16)
    if values.min() >= limits.min and values.max() <= limits.max and np.array_equal(whole, values):
        return whole
    return values.astype(np.float32, copy=False)


def _layout(array: Any) -> list[Any]:
    return [list(array.shape), list(array.chunks), list(array.blocks), str(array.dtype)]


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turn any failure of the enclosed reading into DATA_CORRUPT, or FILE_READ where the file may be whole."""
    try:
        yield
    except Exception as error:  # Blosc2 raises anything at all on a damaged file, SyntaxError included
        told = " ".join(str(error).split())[-200:].rstrip(". ")
        if refused(error):
            raise SamMed3DError(
                ErrorCode.FILE_READ, f"{path} could not be read: {told}.", "Check its permissions and the drive."
            ) from error
        raise SamMed3DError(
            ErrorCode.DATA_CORRUPT,
            f"{path} is missing or damaged: {type(error).__name__}: {told}.",
            "Delete it, and run `python -m backend.prepare` with the same arguments again: it makes what is missing.",
        ) from error
