"""TIFF, OME-TIFF and ImageJ stacks, through tifffile. They know the voxel size, not the patient."""

import importlib.util
import math
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.geometry import plain_order
from backend.io.faults import corrupt, foreign
from backend.io.guard import check_memory, check_present, check_voxels, frame_index
from backend.io.payload import inflated_size
from backend.io.units import MM_PER_UNIT
from backend.volume import Affine, Source, Volume

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE = (8, 32946)  # values of the tag Compression: Adobe's and the older one
_UNCOMPRESSED = 1
_DESCRIPTION = 270  # the tag ImageDescription
_BUILT_IN = (_UNCOMPRESSED, *_DEFLATE, 32773)  # decoded by tifffile alone; the last is PackBits
_BUILT_IN_PREDICTORS = (1, 2)  # none, and differences of neighbours
_MM_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0}  # inch and centimetre; 1 means no unit

_Spacing = tuple[float | None, float | None, float | None]  # mm along (x, y, z); None where the file does not say


def read(path: Path, frame: int | None) -> Volume:
    """Read a TIFF stack; see `backend.io.read_volume`."""
    with path.open("rb") as file:
        if file.read(4) not in _MAGICS:
            raise foreign(path, "TIFF")
    with tifffile.TiffFile(path) as tif:
        _check_chain(tif, path)
        _check_description(tif, path)
        series = _only_series(tif, path)
        spacing = _spacing(tif)
        axes, shape = _named_axes(series, spacing)
        lengths = dict(zip(axes, shape, strict=True))
        _check_axes(path, axes, lengths, np.dtype(series.dtype))
        index = frame_index(path, math.prod(lengths[axis] for axis in axes if axis not in "ZYX"), frame)
        check_memory(path, series.nbytes)
        _check_segments(series, path)
        array = series.asarray().reshape(shape)
    frames = _as_frames(array, axes)
    stack = frames[index] if len(frames) == 1 else frames[index].copy()  # a view would keep all the others in memory
    # The file knows no patient; a viewer shows its rows and columns as they are, so they lie as a viewer's do.
    affine = _viewer_affine(stack.shape, _known(spacing, path)[::-1])
    return Volume(stack.transpose(2, 1, 0), affine, Source(path, "tiff"))


def _viewer_affine(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Affine:
    """The affine of a stack (z, y, x) that lies as a viewer shows it, its first voxel at the origin."""
    return plain_order((shape[0], shape[1], shape[2])).volume_affine(np.diag([*spacing, 1.0]))


def write(path: Path, mask: npt.NDArray[Any], volume: Volume) -> None:
    """Write labels (x, y, z) as a zlib-compressed OME-TIFF; of the grid, it keeps only the voxel size, and warns."""
    plain = _viewer_affine(volume.shape[::-1], volume.spacing[::-1])
    if not np.allclose(volume.affine, plain, atol=1e-3 * min(volume.spacing)):
        warnings.warn(
            "The mask keeps the voxel size, but TIFF has no place for the image's position and orientation. "
            "Save as .nii.gz to keep them.",
            SamMed3DWarning,
            stacklevel=2,
        )
    names = [f"PhysicalSize{axis}" for axis in "XYZ"]
    sizes: dict[str, Any] = dict(zip(names, volume.spacing, strict=True))
    tifffile.imwrite(
        path,
        mask.transpose(2, 1, 0),
        ome=True,
        compression="zlib",
        photometric="minisblack",
        metadata={"axes": "ZYX", **sizes, **{f"{name}Unit": "mm" for name in names}},
        resolution=(10 / volume.spacing[0], 10 / volume.spacing[1]),  # for programs that do not know OME
        resolutionunit="CENTIMETER",
    )


def _check_chain(tif: Any, path: Path) -> None:
    """Refuse a file whose list of pages does not end with a zero: tifffile drops the rest without an error."""
    place = tif.pages.next_page_offset
    tif.filehandle.seek(place or 0)
    following = tif.filehandle.read(tif.tiff.offsetsize)
    if place is None or following != bytes(tif.tiff.offsetsize):
        raise corrupt(path, f"its list of pages breaks off after {len(tif.pages)}")


def _check_description(tif: Any, path: Path) -> None:
    """Refuse a file that is cut within its description, which holds the voxel size: tifffile passes over it."""
    order: Literal["little", "big"] = "little" if tif.byteorder == "<" else "big"
    file, layout, tags = tif.filehandle, tif.tiff, tif.pages[0].tags
    file.seek(tif.pages[0].offset)
    entries = file.read(int.from_bytes(file.read(layout.tagnosize), order) * layout.tagsize)
    codes = {int.from_bytes(entries[place : place + 2], order) for place in range(0, len(entries), layout.tagsize)}
    if _DESCRIPTION in codes and _DESCRIPTION not in tags:
        raise corrupt(path, "its image description lies outside the file")


def _only_series(tif: Any, path: Path) -> Any:
    if len(tif.series) == 1:
        return tif.series[0]
    shapes = ", ".join(str(series.shape) for series in tif.series)
    raise SamMed3DError(
        ErrorCode.VOLUME_DIMENSIONS,
        f"{path} holds {len(tif.series)} images, not one: {shapes[:200] or 'none'}.",
        "Save the wanted one to a file of its own.",
    )


def _named_axes(series: Any, spacing: _Spacing) -> tuple[str, tuple[int, ...]]:
    """Return the shape of the series, and a letter for each axis: Z, Y, X, S for colour, others for frames.

    The pages of a plain stack have no name (Q or I in tifffile): they are slices, those of several such axes along the
    last. A single slice has no Z axis; it is a volume if the file gives it a thickness.
    """
    axes, shape = series.axes, series.shape
    if "Z" not in axes:
        axes = re.sub("[QI](?!.*[QI])", "Z", axes)
    if "Z" not in axes and spacing[2] is not None:
        axes, shape = f"Z{axes}", (1, *shape)
    return axes, shape


def _check_axes(path: Path, axes: str, lengths: dict[str, int], dtype: np.dtype[Any]) -> None:
    if "S" in axes:
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"{path} is a colour image: it has {lengths['S']} samples a voxel.",
            "Convert it to one intensity a voxel, or save one channel.",
        )
    check_voxels(path, tuple(lengths[axis] for axis in "XYZ" if axis in lengths), dtype)


def _as_frames(array: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Return a view of shape (frames, Z, Y, X)."""
    others = [place for place, axis in enumerate(axes) if axis not in "ZYX"]
    ordered = array.transpose(*others, *(axes.index(axis) for axis in "ZYX"))
    return ordered.reshape(-1, *ordered.shape[-3:])


def _check_segments(series: Any, path: Path) -> None:
    """Refuse a series whose strips and tiles lie outside the file, are missing, or do not hold its voxels."""
    if series.dataoffset is not None:  # one uncompressed block
        check_present(path, series.dataoffset + series.nbytes, path.stat().st_size)
        return
    _check_codec(series.keyframe, path)
    for page in series.pages:
        if page is None:
            raise corrupt(path, "one of its planes is missing")
        file_size = page.parent.filehandle.size  # the planes of an OME-TIFF may lie in several files
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            check_present(path, offset + size, file_size if offset and size else 0)
        _check_content(page, path)


def _check_codec(keyframe: Any, path: Path) -> None:
    steps = ((keyframe.compression, _BUILT_IN), (keyframe.predictor, _BUILT_IN_PREDICTORS))
    others = [step for step, built_in in steps if step not in built_in]
    if others and importlib.util.find_spec("imagecodecs") is None:
        name = getattr(others[0], "name", others[0])
        raise SamMed3DError(
            ErrorCode.DEPENDENCY_MISSING,
            f"{path} is compressed by {name}, which needs the package imagecodecs.",
            "Run `pip install imagecodecs`, or save the image without compression.",
        )


def _check_content(page: Any, path: Path) -> None:
    """Refuse a page whose strips or tiles hold fewer bytes than its voxels, or (deflated) a bomb."""
    keyframe = page.keyframe
    content = sum(page.databytecounts)
    if keyframe.compression in _DEFLATE:
        content = 0
        file = page.parent.filehandle
        limit = keyframe.nbytes + math.prod(keyframe.tile or ()) * keyframe.dtype.itemsize  # tiles overhang the edge
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            inflated = inflated_size(BytesIO(file.read(size)), limit)
            if inflated > limit:
                raise corrupt(path, f"a strip or tile expands to more than {limit} bytes")
            content += inflated
    if keyframe.compression in (_UNCOMPRESSED, *_DEFLATE):
        row = math.ceil(keyframe.imagewidth * keyframe.bitspersample / 8)  # voxels of 1 or 12 bits share bytes
        check_present(path, keyframe.imagedepth * keyframe.imagelength * row, content)


def _spacing(tif: Any) -> _Spacing:
    if tif.ome_metadata:
        return _ome_spacing(tif.ome_metadata)
    x, y = (_pixel_size(tif.pages[0].tags.get(f"{axis}Resolution")) for axis in "XY")
    if tif.imagej_metadata:
        unit = MM_PER_UNIT.get(str(tif.imagej_metadata.get("unit", "")).replace("\\u00B5", "\u00b5").lower())
        return _in_mm(x, unit), _in_mm(y, unit), _in_mm(tif.imagej_metadata.get("spacing"), unit)
    tag = tif.pages[0].tags.get("ResolutionUnit")
    unit = _MM_PER_RESOLUTION_UNIT.get(int(tag.value)) if tag else None
    return _in_mm(x, unit), _in_mm(y, unit), None


def _ome_spacing(text: str) -> _Spacing:
    pixels = ElementTree.fromstring(text).find(".//{*}Pixels")
    if pixels is None:
        return None, None, None
    sizes = (pixels.get(f"PhysicalSize{axis}") for axis in "XYZ")
    units = (MM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XYZ")
    x, y, z = map(_in_mm, sizes, units)
    return x, y, z


def _pixel_size(tag: Any) -> float | None:
    """Return the size of a pixel from a resolution (pixels a unit, a fraction), in that unit."""
    numerator, denominator = tag.value if tag else (0, 0)
    return denominator / numerator if numerator else None


def _in_mm(size: str | float | None, unit: float | None) -> float | None:
    """Return a size in mm, or None where it or its unit is missing or no length."""
    if size is None or unit is None:
        return None
    length = float(size) * unit
    return length if math.isfinite(length) and length > 0 else None


def _known(spacing: _Spacing, path: Path) -> tuple[float, ...]:
    unknown = [axis for axis, size in zip("xyz", spacing, strict=True) if size is None]
    if unknown:
        warnings.warn(
            f"{path}: voxel size unknown along {', '.join(unknown)}; taken as 1 mm.", SamMed3DWarning, stacklevel=2
        )
    return tuple(1.0 if size is None else size for size in spacing)
