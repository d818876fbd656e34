"""NumPy archives from strangers: numbers are read as numbers, and pickles without running anything in them.

`numpy.load(allow_pickle=True)` runs whatever code a file asks for. The challenge's files hold lists of dictionaries,
which NumPy can only pickle. Here such a pickle is unpacked with stand-ins for the four names that NumPy's own
pickles use; any other name is refused, and nothing of NumPy's unpickling is run.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from backend.errors import SamMed3DError
from backend.io.faults import corrupt, unsupported
from backend.io.guard import MAX_DEFLATE_RATIO, check_memory, check_present

# Prompts take kilobytes.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_PICKLE_ITEMS = 10**5


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read some arrays of an archive; the others are not looked at.

    Args:
        path: an .npz file.
        keys: wanted names; those that are not there are left out.

    Returns:
        Arrays of numbers or text as they are, arrays of objects as nested lists of plain Python values.

    Raises:
        SamMed3DError: FILE_CORRUPT, FILE_TRUNCATED, VOLUME_TOO_LARGE; FILE_FORMAT for a pickle of anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            return {key: _read(path, archive, entries[key]) for key in keys if key in entries}
    except SamMed3DError:
        raise
    except RefusedPickle as error:
        remedy = "Use it only if you trust its source, and then with its prompts written again by numpy.savez."
        raise unsupported(path, f"{error}, which prompts need not; nothing was run", remedy) from error
    except Exception as error:  # zipfile, zlib, pickle and NumPy raise anything at all on a damaged file
        raise corrupt(path, f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}") from error


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    check_present(path, entry.file_size, entry.compress_size * MAX_DEFLATE_RATIO + 64)
    with archive.open(entry) as stream:
        shape, dtype = _header(stream)
        rest = entry.file_size - stream.tell()
        if dtype.hasobject:
            if rest > MAX_PICKLE_BYTES:
                raise corrupt(path, f"{entry.filename} is a pickle of {rest} bytes; prompts need far fewer")
            return plain(safe_loads(stream.read()))
        needed = math.prod(shape) * dtype.itemsize
        check_present(path, needed, rest)
        check_memory(path, needed)
    with archive.open(entry) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()  # to the end, where the checksum is compared
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of NumPy's format is not known")
    return shape, dtype


class RefusedPickle(pickle.UnpicklingError):
    """A pickle that is not one of plain values."""


class PlainArray:
    """Stands in for a NumPy array in a pickle: its shape and its values."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[int, tuple[int, ...], "PlainType", bool, Any]) -> None:
        _, self.shape, kind, columns_first, content = state
        if columns_first and len(self.shape) > 1:
            raise RefusedPickle("holds an array with columns first")
        self.values = content if isinstance(content, list) else kind.numbers(content)
        if not isinstance(self.shape, tuple) or math.prod(self.shape) != len(self.values):
            raise RefusedPickle(f"holds an array of shape {self.shape} with {len(self.values)} values")
        if math.prod(max(1, length) for length in self.shape) > MAX_PICKLE_ITEMS:  # of nothing, perhaps
            raise RefusedPickle(f"holds an array of shape {self.shape}")


class PlainType:
    """Stands in for a NumPy dtype in a pickle: a kind of plain number, or text, or objects."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"b1|[iuf][1248]|O8?|U\d{1,3}", name):
            raise RefusedPickle(f"holds values of type {name!r}")
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            raise RefusedPickle("holds big-endian values")

    def numbers(self, content: bytes) -> list[Any]:
        """The values in raw bytes."""
        if self.name.startswith("O"):
            raise RefusedPickle("holds objects as raw bytes")
        found: list[Any] = np.frombuffer(content, dtype=self.name).tolist()
        return found


def _reconstruct(*_: object) -> PlainArray:
    return PlainArray()


def _scalar(kind: PlainType, content: bytes) -> Any:
    (number,) = kind.numbers(content)
    return number


_STAND_INS: Mapping[tuple[str, str], object] = {
    (f"numpy.{core}.multiarray", name): stand_in
    for core in ("core", "_core")
    for name, stand_in in (("_reconstruct", _reconstruct), ("scalar", _scalar))
} | {("numpy", "ndarray"): PlainArray, ("numpy", "dtype"): PlainType}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _STAND_INS:
            raise RefusedPickle(f"asks for {module}.{name} on loading")
        return _STAND_INS[module, name]


def safe_loads(content: bytes) -> Any:
    """Unpack a pickle of built-in values and NumPy arrays and scalars, which come as stand-ins.

    Raises:
        RefusedPickle: it asks for anything else.
    """
    for operation, argument, _ in pickletools.genops(content):  # which refuses lengths that are not there
        # The unpickler would reserve memory for as many remembered values as the largest number it is told.
        if operation.name in {"PUT", "LONG_BINPUT"} and isinstance(argument, int) and argument > len(content):
            raise RefusedPickle(f"remembers a value as number {argument}")
    return _Unpickler(io.BytesIO(content)).load()


def plain(value: Any) -> Any:
    """Stand-ins as nested lists; refuses more than `MAX_PICKLE_ITEMS` values, however they are nested."""
    return _Flattener().plain(value)


class _Flattener:
    def __init__(self) -> None:
        self._items = 0

    def plain(self, value: Any) -> Any:
        self._items += 1
        if self._items > MAX_PICKLE_ITEMS:
            raise RefusedPickle(f"holds more than {MAX_PICKLE_ITEMS} values")
        if isinstance(value, PlainArray):
            return self._nested(value.shape, value.values)
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        return value

    def _nested(self, shape: tuple[int, ...], values: list[Any]) -> Any:
        if not shape:
            return self.plain(values[0])
        if len(shape) == 1:
            return [self.plain(item) for item in values]
        size = math.prod(shape[1:])
        return [self._nested(shape[1:], values[i * size : (i + 1) * size]) for i in range(shape[0])]
