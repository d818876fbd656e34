"""The border to third-party readers and writers: beyond it, every failure is a SamMed3DError."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io.faults import corrupt


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any failure of the enclosed reading into a SamMed3DError that names `path`."""
    try:
        yield
    except SamMed3DWarning:  # where warnings are errors
        raise
    except SamMed3DError as error:
        if path.name in error.problem:
            raise
        raise SamMed3DError(error.code, f"{path}: {error.problem}", error.remedy) from error  # of Volume, say
    except Exception as error:  # nibabel, tifffile, ITK, pydicom and zlib raise anything at all on a bad file
        raise _read_error(path, error) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any failure of the enclosed writing into a SamMed3DError that names `path`."""
    try:
        yield
    except (SamMed3DError, SamMed3DWarning):
        raise
    except Exception as error:  # as for reading; ITK reports a full disk as a RuntimeError, for instance
        raise SamMed3DError(
            ErrorCode.FILE_WRITE,
            f"{path} could not be written: {_told(error)}.",
            "Check the free space and the permissions of the folder; a file that was there before is unchanged.",
        ) from error


def _read_error(path: Path, error: Exception) -> SamMed3DError:
    if isinstance(error, MemoryError):
        return SamMed3DError(
            ErrorCode.VOLUME_TOO_LARGE,
            f"{path} needs more memory than the operating system grants: {_told(error)}.",
            "Close other programs, or crop or downsample the image.",
        )
    if isinstance(error, EOFError):
        return SamMed3DError(
            ErrorCode.FILE_TRUNCATED, f"{path} is cut short: {_told(error)}.", "Copy or download the file again."
        )
    if isinstance(error, OSError):
        return SamMed3DError(
            ErrorCode.FILE_READ, f"{path} could not be read: {_told(error)}.", "Check its permissions and the drive."
        )
    return corrupt(path, _told(error))


def _told(error: Exception) -> str:
    """What the library said, on one line: the end of it, since ITK writes paragraphs with the cause in the last."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}".rstrip(".: ")
