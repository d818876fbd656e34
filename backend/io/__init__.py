"""Files to volumes, and masks to files. Nothing else in the project opens an image.

A format's library is imported when a file of that format is first opened, so that importing this
package stays fast. Whatever a file does to a library, only a `SamMed3DError` comes out of here.
"""

import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.io.atomic import replacing
from backend.io.boundary import reading, writing
from backend.io.guard import FramesError
from backend.io.labels import label_array
from backend.volume import Volume

__all__ = [
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "FramesError",
    "check_writable",
    "read_volume",
    "series_uid",
    "write_mask",
]

_WRITERS = {  # ending -> module of this package
    **dict.fromkeys((".nii.gz", ".nii"), "nifti"),
    **dict.fromkeys((".nrrd", ".mha"), "itk"),
    **dict.fromkeys((".ome.tif", ".tif", ".ome.tiff", ".tiff"), "tiff"),
}
_READERS = {**_WRITERS, **dict.fromkeys((".nhdr", ".mhd"), "itk"), ".dcm": "dicom"}

READABLE_SUFFIXES = tuple(_READERS)
WRITABLE_SUFFIXES = tuple(_WRITERS)


def read_volume(path: str | os.PathLike[str], frame: int | None = None) -> Volume:
    """Read an image file, or the DICOM series in a folder, as a volume.

    Args:
        path: a file with one of `READABLE_SUFFIXES` in any case; a DICOM file of any name, which stands
            for all the files of its series beside it; or a folder with one DICOM series.
        frame: which volume of a 4-D image, from 0; the frames of several such axes are counted in
            the order of the file.

    Returns:
        volume with axes (x, y, z) and an affine to RAS+ mm. Voxels keep the type that they are stored
        in, in native byte order, except where the file scales them: then float32 (for DICOM int16
        if that loses nothing). A TIFF file knows no orientation: it is
        taken to lie as a viewer shows it, columns to Left, rows to Posterior, slices to Inferior.

    Raises:
        SamMed3DError: for every file that cannot be read truly: missing, foreign, damaged (its length
            and, where the format has them, its checksums are verified), too large for the memory,
            not one real number a voxel, not three axes, or without a usable geometry.
        FramesError: 4-D and no frame named, or one that it does not have.

    Warns:
        SamMed3DWarning: the file does not say how large its voxels are; they are taken as 1 mm.
    """
    path = Path(path)
    with reading(path):
        if not path.exists():
            raise SamMed3DError(
                ErrorCode.FILE_MISSING,
                f"{path} does not exist.",
                "Check its spelling, and that its drive is connected.",
            )
        if path.is_file() and path.stat().st_size == 0:
            raise SamMed3DError(ErrorCode.FILE_FORMAT, f"{path} is empty: 0 bytes.", "Copy or download the file again.")
        volume: Volume = _module(_reader(path), path).read(path, frame)
    return volume


def series_uid(path: str | os.PathLike[str]) -> str | None:
    """The series that a DICOM file is of, or None for any other path; nothing is said of what is wrong with it."""
    path = Path(path)
    try:
        if path.is_file() and _reader(path) == "dicom":
            uid: str | None = _module("dicom", path).series_uid(path)
            return uid
    except (SamMed3DError, OSError):
        pass
    return None


def write_mask(path: str | os.PathLike[str], mask: npt.ArrayLike, volume: Volume) -> None:
    """Write labels on the grid of the volume that they belong to, replacing `path` whole or not at all.

    Args:
        path: ends in one of `WRITABLE_SUFFIXES`. NIfTI keeps every grid; NRRD and MetaImage those whose
            axes are at right angles; TIFF only the voxel size.
        mask: bool or integers from 0, shape (X, Y, Z) of the volume; written as the smallest of
            uint8, uint16 and uint32 that fits.
        volume: where it came from a NIfTI file and the mask goes to one, the mask's sform, qform and
            units are those of that file, bit by bit.

    Raises:
        SamMed3DError: unfit mask or name, a grid that the format cannot hold, or the file could not
            be written: then a file that was there before is unchanged.
    """
    path = Path(path)
    name = check_writable(path, volume)
    labels = label_array(mask, volume)
    with writing(path), replacing(path) as temporary:
        _module(name, path).write(temporary, labels, volume)


def check_writable(path: Path, volume: Volume | None = None) -> str:
    """Refuse a name or a folder that no mask (of a volume) can be written to, before the work of making one.

    Returns:
        the module of this package that writes the format.

    Raises:
        SamMed3DError: the name ends in no format for masks, its folder is not there, or the format cannot hold the
            volume's grid.
    """
    name = _by_suffix(path, _WRITERS)
    if name is None:
        raise SamMed3DError(
            ErrorCode.FILE_FORMAT,
            f"{path} does not end in a format that masks are written in.",
            f"Choose one of {', '.join(WRITABLE_SUFFIXES)}.",
        )
    if not os.path.isdir(path.absolute().parent):  # noqa: PTH112  # Path.is_dir() raises what a folder refuses
        raise SamMed3DError(
            ErrorCode.FILE_WRITE, f"There is no folder {path.absolute().parent}.", "Make it, or choose another one."
        )
    if volume is not None and name == "itk":  # the others hold every grid, or the voxel size alone
        _module(name, path).check_grid(path, volume)
    return name


def _reader(path: Path) -> str:
    name = "dicom" if path.is_dir() else _by_suffix(path, _READERS)
    if name is not None:
        return name
    with path.open("rb") as file:  # slices often have no suffix, or a number for one
        if file.read(132)[128:] == b"DICM":
            return "dicom"
    raise SamMed3DError(
        ErrorCode.FILE_FORMAT,
        f"{path} is of no known format.",
        f"Convert it to one of {', '.join(READABLE_SUFFIXES)}.",
    )


def _by_suffix(path: Path, modules: dict[str, str]) -> str | None:
    return next((modules[suffix] for suffix in modules if path.name.lower().endswith(suffix)), None)


def _module(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        extra = "[dicom]" if name == "dicom" else ""
        raise SamMed3DError(
            ErrorCode.DEPENDENCY_MISSING,
            f"{path} needs the package {error.name}, which is not installed.",
            f'Run `pip install "napari-samed3d{extra}"`.',
        ) from error
