"""One DICOM series of single-frame images as a volume, through pydicom and highdicom (the extra `dicom`)."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from highdicom import get_volume_from_series
from highdicom.spatial import get_series_volume_positions
from pydicom.misc import is_dicom
from pydicom.pixels import get_decoder

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io.boundary import reading
from backend.io.faults import corrupt, foreign, unsupported
from backend.io.guard import check_memory, check_present, check_voxels, frame_index
from backend.volume import Affine, Source, Volume

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_WORKING_BYTES = 8  # a voxel: highdicom holds the slices and their stack, each in float32
_ORIENTATION_TOLERANCE = 1e-4  # of the direction cosines of two slices of one series, which are rounded text
_OFF_VOXELS = 0.1  # that slices may stand from where they would be without a tilt
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class _Slice:
    """One file, and its header without the pixels."""

    path: Path
    header: Any


def read(path: Path, frame: int | None) -> Volume:
    """Read the only series in a folder, or the one that a file belongs to; see `backend.io.read_volume`."""
    slices = _series_of_file(path) if path.is_file() else _only_series(path)
    for item in slices:
        with reading(item.path):  # so that an error names the slice, not the folder
            _check_slice(item)
    _check_regular(path, slices)
    frame_index(path, 1, frame)
    rows, columns = slices[0].header.Rows, slices[0].header.Columns
    stored = sum(item.path.stat().st_size for item in slices)
    check_memory(path, stored + _WORKING_BYTES * rows * columns * len(slices))
    datasets = [_with_pixels(item) for item in slices]
    if len(datasets) == 1:
        datasets[0].SpacingBetweenSlices = _thickness(datasets[0], path)
    # Neither the real-world value map nor the inversion for display (MONOCHROME1): other readers ignore them, and a
    # model should see the same numbers.
    volume = get_volume_from_series(
        datasets,
        dtype=np.float32,
        apply_real_world_transform=False,
        apply_presentation_lut=False,
        orientation_tol=_ORIENTATION_TOLERANCE,
    )
    array = _as_integers(volume.array).transpose(2, 1, 0)
    affine = _ras_affine(_as_they_stand(volume.affine, datasets))
    return Volume(array, affine, Source(path, "dicom"))


def series_uid(path: Path) -> str | None:
    """The series that a file is of, or None if it holds no image; raises what `read` does."""
    image = _image(path)
    return None if image is None else str(image.header.SeriesInstanceUID)


def _as_they_stand(affine_lps: npt.NDArray[Any], datasets: Sequence[Any]) -> npt.NDArray[Any]:
    """highdicom's affine for (slice, row, column), or with the step from slice to slice that their positions say.

    It takes a gantry tilt of up to 2.5 degrees for none, and the slices for straight behind each other: of a head,
    the last would be 9 mm off.
    """
    if len(datasets) == 1:
        return affine_lps
    places = np.array([[float(number) for number in one.ImagePositionPatient] for one in datasets])
    places = places[np.argsort(places @ affine_lps[:3, 0])]
    straight = affine_lps[:3, 3] + np.arange(len(places))[:, None] * affine_lps[:3, 0]
    if np.linalg.norm(places - straight, axis=1).max() < _OFF_VOXELS * min(datasets[0].PixelSpacing):
        return affine_lps  # positions are rounded text
    out = affine_lps.copy()
    out[:3, 0] = (places[-1] - places[0]) / (len(places) - 1)
    out[:3, 3] = places[0]
    return out


def _ras_affine(affine_lps: npt.NDArray[Any]) -> Affine:
    """Return the affine for indices (x, y, z) in RAS+ from highdicom's for (slice, row, column) in LPS+."""
    matrix: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps[:, [2, 1, 0, 3]]
    return matrix


def _as_integers(array: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return the voxels as int16 if that loses nothing (CT in HU), else as they are."""
    for plane in array:  # by slice, so that no second volume is held for the answer "no"
        if plane.min() < _INT16.min or plane.max() > _INT16.max or (plane != np.rint(plane)).any():
            return array
    return array.astype(np.int16)


def _only_series(folder: Path) -> list[_Slice]:
    series = _images_by_series(folder)
    if len(series) == 1:
        return next(iter(series.values()))
    if not series:
        raise SamMed3DError(
            ErrorCode.FILE_FORMAT,
            f"The folder {folder} holds no DICOM image.",
            "Choose the folder that holds the slices themselves, not one above it.",
        )
    listed = "; ".join(
        f"'{slices[0].header.get('SeriesDescription', 'no description')}' "
        f"({slices[0].header.get('Modality', '?')}, {len(slices)} slices, e.g. {slices[0].path.name})"
        for slices in series.values()
    )
    raise SamMed3DError(
        ErrorCode.FILE_FORMAT,
        f"The folder {folder} holds {len(series)} DICOM series, not one: {listed}.",
        "Move the wanted one to a folder of its own, or on the command line give one of its files.",
    )


def _series_of_file(path: Path) -> list[_Slice]:
    chosen = _image(path)
    if chosen is None:
        raise foreign(path, "DICOM image")
    return _images_by_series(path.parent)[chosen.header.SeriesInstanceUID]


def _images_by_series(folder: Path) -> dict[str, list[_Slice]]:
    """Return the images in a folder (not below it) by series; reports, structures and other files are passed over."""
    series: dict[str, list[_Slice]] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")  # macOS leaves such files beside those that it copies, with their endings
        image = _image(path) if path.is_file() and not hidden else None
        if image is not None:
            series.setdefault(image.header.SeriesInstanceUID, []).append(image)
    return series


def _image(path: Path) -> _Slice | None:
    """Return the slice in a file, or None if it is of another kind; one that is cut off must not pass for that."""
    with reading(path):
        if not is_dicom(path):
            if path.suffix.lower() == ".dcm":
                raise foreign(path, "DICOM")
            return None
        header = _dataset(path, stop_before_pixels=True)
        if "Rows" in header and "SeriesInstanceUID" in header:
            return _Slice(path, header)
        if len(header) == 0 or header.file_meta.MediaStorageSOPClassUID.name.endswith("Image Storage"):
            raise corrupt(path, "it ends before the size or the series of its image is said")
        return None


def _dataset(path: Path, stop_before_pixels: bool) -> Any:
    dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
    if len(dataset) > 0 and not dataset.get("SOPClassUID"):  # blanked by some anonymisers, but highdicom depends on it
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    if "SeriesInstanceUID" in dataset and not dataset.get("FrameOfReferenceUID"):  # highdicom wants to see it the same
        dataset.FrameOfReferenceUID = dataset.SeriesInstanceUID
    return dataset


def _check_slice(item: _Slice) -> None:
    header, path = item.header, item.path
    if int(header.get("NumberOfFrames") or 1) > 1:
        remedy = "Convert it to NIfTI (for instance with dcm2niix) and open that."
        raise unsupported(path, f"is a multi-frame DICOM file of {header.NumberOfFrames} frames", remedy)
    colours = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if header.get("SamplesPerPixel", 1) != 1 or colours:
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"{path} is a colour image: it has "
            + ("a palette." if colours else f"{header.SamplesPerPixel} samples a pixel."),
            "Choose a series of one intensity a pixel.",
        )
    missing = [tag for tag in _GEOMETRY if not header.get(tag)]
    if missing:
        raise SamMed3DError(
            ErrorCode.VOLUME_GEOMETRY,
            f"{path} does not say where its slice lies: {', '.join(missing)} is missing.",
            "Choose a CT, MR or PET series, or convert the images to NIfTI first.",
        )
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:  # the whole file, which pydicom inflates
        return
    if not syntax.is_compressed:
        expected = math.ceil(header.Rows * header.Columns * header.BitsAllocated / 8)
        check_present(path, expected, path.stat().st_size)
    elif not get_decoder(syntax).is_available:
        raise SamMed3DError(
            ErrorCode.DEPENDENCY_MISSING,
            f"{path} is compressed by {syntax.name}, for which no decoder is installed.",
            'Run `pip install "pylibjpeg[all]"`, or export the series uncompressed.',
        )


def _check_regular(path: Path, slices: Sequence[_Slice]) -> None:
    """Refuse slices that do not stand one behind the other at equal distances."""
    header = slices[0].header
    sizes = {(item.header.Rows, item.header.Columns) for item in slices}
    if len(sizes) > 1:
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"The slices of the series in {path} differ in size: {sorted(sizes)}.",
            "Move the slices of another size (a localiser, say) to a folder of their own.",
        )
    spacings = {str([float(size) for size in item.header.PixelSpacing]) for item in slices}  # "0.5" and "0.50" are one
    frames = {str(item.header.FrameOfReferenceUID) for item in slices}
    for tag, values in (("PixelSpacing", spacings), ("FrameOfReferenceUID", frames)):
        if len(values) > 1:
            raise SamMed3DError(
                ErrorCode.VOLUME_GEOMETRY,
                f"The slices of the series in {path} differ in {tag}: {', '.join(sorted(values)[:3])}.",
                "Move those of another one to a folder of their own.",
            )
    check_voxels(path, (header.Columns, header.Rows, len(slices)), np.dtype(np.int16))
    headers = [item.header for item in slices]
    if len(slices) == 1 or get_series_volume_positions(headers, orientation_tol=_ORIENTATION_TOLERANCE)[0]:
        return
    _, places = get_series_volume_positions(
        headers, orientation_tol=_ORIENTATION_TOLERANCE, allow_missing_positions=True
    )
    reason = f"{max(places) + 1 - len(slices)} slices are missing" if places else "repeated, turned or tilted slices"
    raise SamMed3DError(
        ErrorCode.VOLUME_GEOMETRY,
        f"The {len(slices)} slices of the series in {path} are not evenly spaced: {reason}.",
        "Export the whole series again, one time point to a folder and without gantry tilt.",
    )


def _thickness(dataset: Any, path: Path) -> float:
    """Return the extent in mm of a single slice along its normal."""
    thickness = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness")
    if not thickness:
        warnings.warn(f"{path}: voxel size unknown along z; taken as 1 mm.", SamMed3DWarning, stacklevel=2)
    return float(thickness or 1)


def _with_pixels(item: _Slice) -> Any:
    with reading(item.path):
        dataset = _dataset(item.path, stop_before_pixels=False)
        dataset.pixel_array  # noqa: B018  # decoded here (and kept by pydicom), so that an error names the slice
    return dataset
