"""NRRD and MetaImage: the geometry by SimpleITK, the voxels by `payload`, since ITK accepts truncated ones silently."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its customary name

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io.faults import foreign, unsupported
from backend.io.guard import MAX_DEFLATE_RATIO, check_present, check_voxels
from backend.io.payload import Inflated, Layout, read_frame
from backend.io.units import MM_PER_UNIT
from backend.volume import Affine, Source, Volume

_DTYPES = {
    getattr(sitk, f"sitk{name}"): np.dtype(name.lower())
    for name in ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])  # its own inverse
_LONGEST_HEADER = 2**22  # bytes; Slicer's segmentations reach some 100 KiB
_MAX_SHEAR = 1e-4  # cosine between two axes; the float32 rounding of a NIfTI affine stays below 1e-5
_ONE_FRAME = "Save the wanted frame or segment as a file of its own (in 3D Slicer: Sequences, or Segmentations)."
_RESAVE = "Open it in 3D Slicer or ITK-SNAP and save it again as .nii.gz."


@dataclass(frozen=True)
class _Payload:
    """Where the voxels are: file, offset, whether deflated, whether big-endian; and mm per unit of the geometry."""

    path: Path
    offset: int
    compressed: bool
    big_endian: bool
    mm_per_unit: float = 1.0


def read(path: Path, frame: int | None) -> Volume:
    """Read a NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file; see `backend.io.read_volume`."""
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    payload = _nrrd_payload(path) if is_nrrd else _meta_payload(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    layout = _layout(reader, path, payload.big_endian)
    size = max(0, payload.path.stat().st_size - payload.offset)
    check_present(payload.path, layout.end, size * MAX_DEFLATE_RATIO if payload.compressed else size)
    with payload.path.open("rb") as file:
        file.seek(payload.offset)
        array = read_frame(Inflated(file) if payload.compressed else file, payload.path, layout, frame)
    affine = _affine(reader)
    affine[:3] *= payload.mm_per_unit
    return Volume(array, affine, Source(path, "nrrd" if is_nrrd else "metaimage"))


def check_grid(path: Path, volume: Volume) -> None:
    """Refuse a volume whose grid is sheared."""
    _, direction = _placed(volume)
    if np.abs(direction.T @ direction - np.eye(3)).max() > _MAX_SHEAR:
        raise SamMed3DError(
            ErrorCode.VOLUME_GEOMETRY,
            f"A {path.suffix} file cannot hold a sheared grid, and the axes of this one are not at right angles: "
            f"affine {volume.affine.tolist()}.",
            "Save the mask as .nii.gz instead.",
        )


def write(path: Path, mask: npt.NDArray[Any], volume: Volume) -> None:
    """Write labels (x, y, z) as a compressed .nrrd or .mha file on the volume's grid, see `check_grid`."""
    origin, direction = _placed(volume)
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
    _verify(path)


def _placed(volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Origin (3,) and axes (3, 3), as columns of length 1, in the format's world."""
    matrix = _LPS_FROM_RAS @ volume.affine[:3]
    return matrix[:, 3], matrix[:, :3] / volume.spacing


def _verify(path: Path) -> None:
    """Read what ITK wrote, which tests its length and checksum: ITK need not notice that a disk is full."""
    try:
        read(path, None)
    except SamMed3DError as error:
        raise OSError(f"what was written cannot be read again ({error.problem})") from error


def _layout(reader: Any, path: Path, big_endian: bool) -> Layout:
    components = reader.GetNumberOfComponents()
    dtype = _DTYPES.get(reader.GetPixelID())
    if components != 1 or dtype is None:
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"{path} does not hold one real number a voxel, but {components} component(s) of ITK type "
            f"'{sitk.GetPixelIDValueAsString(reader.GetPixelID())}'.",
            "Convert the image to one intensity a voxel (its magnitude, one channel, or one frame).",
        )
    shape = tuple(reader.GetSize())
    check_voxels(path, shape, dtype)
    return Layout(0, shape, dtype.newbyteorder(">" if big_endian else "<"))


def _affine(reader: Any) -> Affine:
    """Return the affine in RAS+ mm from ITK's LPS direction, spacing and origin, without any frame axis."""
    axes = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = _LPS_FROM_RAS @ direction * reader.GetSpacing()[:3]
    affine[:3, 3] = _LPS_FROM_RAS @ reader.GetOrigin()[:3]
    return affine


def _nrrd_payload(path: Path) -> _Payload:
    with path.open("rb") as file:
        if not file.readline(16).startswith(b"NRRD"):
            raise foreign(path, "NRRD")
        fields = _text_header(file, path, ":", last="")
        offset = file.tell()
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise unsupported(path, f"has the encoding '{encoding}', of which only raw and gzip are read", _RESAVE)
    _refuse_nonzero(path, fields, ("byte skip", "byteskip", "line skip", "lineskip"))
    several = any(kind in fields.get("kinds", "").lower() for kind in ("vector", "color", "matrix", "complex"))
    if "none" in fields.get("space directions", "").lower().split() and not several:  # of a voxel, which ITK tells
        raise unsupported(path, f"has {fields.get('dimension')} axes, one of them not in space", _ONE_FRAME)
    _warn_of_unknown_spacing(path, fields, ("space directions", "spacings"))
    big_endian = fields.get("endian", "").lower() == "big"
    detached = fields.get("data file", fields.get("datafile"))
    payload = _located(path, detached, offset, encoding != "raw", big_endian)
    return replace(payload, mm_per_unit=_nrrd_unit(path, fields.get("space units", fields.get("units", ""))))


def _nrrd_unit(path: Path, field: str) -> float:
    """Return the mm per unit of the axes in space; frames, which may be listed too, have another unit or none."""
    units = {unit.lower() for unit in re.findall(r'"([^"]*)"', field)}
    known = {MM_PER_UNIT[unit] for unit in units if unit in MM_PER_UNIT}
    if len(known) == 1:
        return known.pop()
    if units:
        warnings.warn(
            f"{path}: voxel size in units that are not known or not the same along all axes ({field}); taken as mm.",
            SamMed3DWarning,
            stacklevel=2,
        )
    return 1.0


def _meta_payload(path: Path) -> _Payload:
    with path.open("rb") as file:
        fields = _text_header(file, path, "=", last="elementdatafile")
        offset = file.tell()
    if "elementdatafile" not in fields or "dimsize" not in fields:
        raise foreign(path, "MetaImage")
    if not _is_true(fields.get("binarydata", "true")):
        raise unsupported(path, "holds its voxels as text, which is not read", _RESAVE)
    _refuse_nonzero(path, fields, ("headersize",))
    _warn_of_unknown_spacing(path, fields, ("elementspacing", "elementsize"))
    big_endian = _is_true(fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "")))
    compressed = _is_true(fields.get("compresseddata", ""))
    detached = None if fields["elementdatafile"].upper() == "LOCAL" else fields["elementdatafile"]
    unit = MM_PER_UNIT.get(fields.get("distanceunits", "").lower(), 1.0)  # most files have none, or "?"
    return replace(_located(path, detached, offset, compressed, big_endian), mm_per_unit=unit)


def _is_true(value: str) -> bool:
    """As ITK understands it."""
    return value[:1] in {"t", "T", "1"}


def _text_header(file: BinaryIO, path: Path, separator: str, last: str) -> dict[str, str]:
    """Return the fields up to and including the key `last`, leaving the file just behind that line.

    Keys are in lower case; a line without separator (a comment, a blank line) has an empty value.
    """
    fields: dict[str, str] = {}
    key = None
    while key != last and file.tell() < _LONGEST_HEADER:
        line = file.readline(_LONGEST_HEADER)
        if not line:
            return fields
        key, _, value = (part.strip() for part in line.decode("utf-8", "replace").partition(separator))
        key = key.lower()
        fields[key] = value
    if key != last:
        raise foreign(path, "NRRD or MetaImage")
    return fields


def _located(path: Path, detached: str | None, offset: int, compressed: bool, big_endian: bool) -> _Payload:
    if detached is None:
        return _Payload(path, offset, compressed, big_endian)
    data_path = path.parent / detached
    if not data_path.is_file():
        raise SamMed3DError(
            ErrorCode.FILE_MISSING,
            f"{path} says that its voxels are in '{detached}', but {data_path} is no file.",
            "Put the data file beside the header; of headers that name several data files, save the image again.",
        )
    return _Payload(data_path, 0, compressed, big_endian)


def _refuse_nonzero(path: Path, fields: Mapping[str, str], keys: tuple[str, ...]) -> None:
    for key in keys:
        if fields.get(key, "0") != "0":
            raise unsupported(path, f"has the field '{key}' with the value {fields[key]}; only 0 is read", _RESAVE)


def _warn_of_unknown_spacing(path: Path, fields: Mapping[str, str], keys: tuple[str, ...]) -> None:
    if not any(key in fields and "nan" not in fields[key].lower() for key in keys):
        warnings.warn(
            f"{path}: voxel size unknown (no {' or '.join(keys)}); taken as 1 mm.", SamMed3DWarning, stacklevel=2
        )
