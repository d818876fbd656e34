"""NIfTI-1 and NIfTI-2 single files, plain or gzip-compressed: the header by nibabel, the voxels by `payload`."""

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from backend.errors import SamMed3DWarning
from backend.io.faults import foreign
from backend.io.guard import MAX_DEFLATE_RATIO, allocate, check_present, check_voxels
from backend.io.payload import Inflated, Layout, Stream, is_gzip, read_exactly, read_frame
from backend.volume import Affine, Source, Volume

_HEADERS = {  # by the first four bytes, the header's own size, which tell the byte order as well
    size.to_bytes(4, order): (kind, "<" if order == "little" else ">")
    for size, kind in ((348, nib.Nifti1Header), (540, nib.Nifti2Header))
    for order in ("little", "big")
}
_MM_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}  # metre, millimetre, micron; by the lowest 3 bits of xyzt_units
_LARGEST_NIFTI1_AXIS = 2**15 - 1


def read(path: Path, frame: int | None) -> Volume:
    """Read a NIfTI file; see `backend.io.read_volume`."""
    with path.open("rb") as file:
        compressed = is_gzip(file)
        stream: Stream = Inflated(file) if compressed else file
        header = _read_header(stream, path)
        layout = _layout(header, path)
        size = path.stat().st_size
        present = size * MAX_DEFLATE_RATIO if compressed else size
        check_present(path, header.sizeof_hdr + layout.end, present)
        affine = _affine_mm(header)
        array = read_frame(stream, path, layout, frame)
    return Volume(_scaled(array, header, path), affine, Source(path, "nifti", header))


def write(path: Path, mask: npt.NDArray[Any], volume: Volume) -> None:
    """Write labels (x, y, z) on the volume's grid; a NIfTI source's sform, qform and units are kept as they are."""
    header = _mask_header(volume)
    header.set_data_dtype(mask.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0  # the display window of the image does not fit labels
    header.set_intent("label")
    image = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image(mask, None, header).to_filename(path)  # no affine: nibabel then leaves the header's own untouched


def _read_header(stream: Stream, path: Path) -> Any:
    """Return the nibabel header, checked and mended by nibabel as it does when it loads an image."""
    start = stream.read(4)
    if start not in _HEADERS:
        raise foreign(path, "NIfTI")
    kind, endianness = _HEADERS[start]
    header = kind(start + read_exactly(stream, kind.sizeof_hdr - len(start)), endianness, check=False)
    if header["magic"].item() != header.single_magic:
        raise foreign(path, "single-file NIfTI (.hdr and .img pairs are not read)")
    _warn_of_unknown_spacing(header, path)  # before nibabel puts a 1 where there is a 0
    header.check_fix()
    return header


def _warn_of_unknown_spacing(header: Any, path: Path) -> None:
    if header["sform_code"] == 0 and (header["pixdim"][1:4] == 0).any():
        warnings.warn(
            f"{path}: voxel size unknown (pixdim is {header['pixdim'][1:4].tolist()}); zeros are taken as 1.",
            SamMed3DWarning,
            stacklevel=2,
        )


def _layout(header: Any, path: Path) -> Layout:
    shape = tuple(map(int, header.get_data_shape()))
    dtype = header.get_data_dtype()
    check_voxels(path, shape, dtype)
    # Some writers leave the offset at 0; in a single file the voxels cannot begin in the header.
    offset = max(int(header.get_data_offset()), header.single_vox_offset)
    return Layout(offset - header.sizeof_hdr, shape, dtype)


def _affine_mm(header: Any) -> Affine:
    """Return nibabel's choice of sform, qform or pixdim, in mm whatever unit the header is in."""
    affine: Affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _scaled(array: npt.NDArray[Any], header: Any, path: Path) -> npt.NDArray[Any]:
    """Apply the header's slope and intercept, giving float32; without them the voxels stay as stored."""
    slope, inter = header.get_slope_inter()
    if slope is None or (slope, inter) == (1, 0):
        return array
    scaled = allocate(path, array.size * 4).view(np.float32).reshape(array.shape, order="F")
    with np.errstate(over="ignore"):  # an overflow becomes inf, which later steps count and report
        for z in range(array.shape[2]):  # by slice: float64 precision without a float64 volume
            scaled[..., z] = array[..., z] * float(slope) + float(inter)
    return scaled


def _mask_header(volume: Volume) -> Any:
    """Return a copy of the source's header if it still describes the volume's grid, else a new one."""
    source = volume.source.header
    if volume.source.format == "nifti" and np.array_equal(_affine_mm(source), volume.affine):
        return source.copy()
    header = nib.Nifti2Header() if max(volume.shape) > _LARGEST_NIFTI1_AXIS else nib.Nifti1Header()
    header.set_data_shape(volume.shape)
    header.set_qform(volume.affine, code=1, strip_shears=True)
    header.set_sform(volume.affine, code=1)
    header.set_xyzt_units("mm")
    return header
