"""Packages of the extra [train]: imported where they are needed, and named where they are missing."""

import importlib
from types import ModuleType

from backend.errors import ErrorCode, SamMed3DError


def extra(module: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        SamMed3DError: DEPENDENCY_MISSING, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SamMed3DError(
            ErrorCode.DEPENDENCY_MISSING,
            f"This needs the package {error.name or module}, which is not installed.",
            'Run `pip install "napari-samed3d[train]"`.',
        ) from error
