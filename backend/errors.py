"""The one exception type, and the one warning type, that a user is meant to read."""

import traceback
from enum import StrEnum
from pathlib import Path


class ErrorCode(StrEnum):
    """Stable codes: they may be added to, never renamed, since scripts and bug reports quote them."""

    FILE_MISSING = "file.missing"
    FILE_FORMAT = "file.format"
    FILE_CORRUPT = "file.corrupt"
    FILE_TRUNCATED = "file.truncated"
    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    DEPENDENCY_MISSING = "dependency.missing"
    VOLUME_DIMENSIONS = "volume.dimensions"
    VOLUME_DTYPE = "volume.dtype"
    VOLUME_GEOMETRY = "volume.geometry"
    VOLUME_TOO_LARGE = "volume.too_large"
    PROMPT_INVALID = "prompt.invalid"
    PROMPT_NEEDS_POSITIVE = "prompt.needs_positive"
    SESSION_STATE = "session.state"
    CHECKPOINT_FORMAT = "checkpoint.format"
    CHECKPOINT_MISMATCH = "checkpoint.mismatch"
    CHECKPOINT_VALUES = "checkpoint.values"
    MODEL_UNKNOWN = "model.unknown"
    DOWNLOAD_FAILED = "download.failed"
    DOWNLOAD_CHANGED = "download.changed"
    DEVICE_UNAVAILABLE = "device.unavailable"
    DEVICE_MEMORY = "device.memory"
    CONFIG_INVALID = "config.invalid"
    DATA_SOURCE = "data.source"
    DATA_INDEX = "data.index"
    DATA_CORRUPT = "data.corrupt"
    RUN_STATE = "run.state"
    TRAINING_DIVERGED = "training.diverged"
    TRAINING_RANK = "training.rank"
    CANCELLED = "cancelled"


class SamMed3DError(Exception):
    """A mistake or a bad input that the user can mend.

    Args:
        code: stable identifier of the kind of error.
        problem: one sentence that names the thing and the value that is wrong.
        remedy: one sentence that says what to do about it.
    """

    def __init__(self, code: ErrorCode, problem: str, remedy: str) -> None:
        super().__init__(code, problem, remedy)  # all three, so that the error survives pickling
        self.code = code
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy} [{self.code}]"


class SamMed3DWarning(UserWarning):
    """Something was put right or assumed without asking, and the user should know."""


def told(error: Exception) -> str:
    """An error as one line; a defect with the place where it showed."""
    if isinstance(error, SamMed3DError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
