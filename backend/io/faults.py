"""The errors that every format shares, each naming the file and the number that is wrong."""

import errno
from pathlib import Path

from backend.errors import ErrorCode, SamMed3DError

# What a system says of a file that is not there, or of offsets that a damaged one makes it seek.
_OF_THE_FILE = {None, errno.ENOENT, errno.EINVAL}


def refused(error: Exception) -> bool:
    """Whether the system refused to read: for want of permission or handles, or as the drive fails, say.

    The file may be whole then.
    """
    return isinstance(error, OSError) and error.errno not in _OF_THE_FILE


def foreign(path: Path, kind: str) -> SamMed3DError:
    """Error for a file whose content is not of the kind that its name promises."""
    return SamMed3DError(
        ErrorCode.FILE_FORMAT,
        f"{path} does not begin as a {kind} file does.",
        "Check that the download finished and that the file name's ending fits its content.",
    )


def corrupt(path: Path, detail: str) -> SamMed3DError:
    """Error for a damaged file; `detail` is a clause that says what is damaged."""
    return SamMed3DError(
        ErrorCode.FILE_CORRUPT,
        f"{path} is damaged: {detail}.",
        "Copy or export the file again.",
    )


def truncated(path: Path, expected: int, present: int) -> SamMed3DError:
    """Error for a file that holds at most `present` of the `expected` bytes."""
    return SamMed3DError(
        ErrorCode.FILE_TRUNCATED,
        f"{path} is cut short: its header announces {expected} bytes, but it can hold at most {present}.",
        "Copy or download the file again.",
    )


def unsupported(path: Path, what: str, remedy: str) -> SamMed3DError:
    """Error for a valid file that uses something (`what`, a clause) that is not read here."""
    return SamMed3DError(ErrorCode.FILE_FORMAT, f"{path} {what}.", remedy)
