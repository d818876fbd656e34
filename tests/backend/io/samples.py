"""Small files to read, made field by field so that any of their fields can be a lie."""

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (8, 9, 10)
OBLIQUE = np.array([[0.7, -0.1, 0.2, -30.0], [0.1, 0.8, 0.3, 12.5], [-0.2, -0.2, 5.0, 7.25], [0, 0, 0, 1]])


def orthogonal(spacing: tuple[float, float, float] = (0.5, 0.75, 5.0), angle: float = 0.3) -> np.ndarray:
    """An affine turned about two axes, without shear."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = [-10.5, 20.25, 3.0]
    return affine


def signed_permutations() -> list[np.ndarray]:
    """The 48 orientations of a grid of 1 x 2 x 3 mm."""
    affines = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order] * signs * (1.0, 2.0, 3.0)
            affine[:3, 3] = (5, -6, 7)
            affines.append(affine)
    return affines


def voxels(dtype: Any = np.int16, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 100, shape)
    return np.asfortranarray(values.astype(dtype))


def nifti(array: np.ndarray | None = None, *, kind: Any = nib.Nifti1Header, order: str = "<", **fields: Any) -> bytes:
    """A single-file NIfTI with an oblique sform; `fields` replace header fields after all else is set."""
    array = voxels() if array is None else array
    header = kind(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(OBLIQUE, 1)
    header["vox_offset"] = header.single_vox_offset
    for name, value in fields.items():
        header[name] = value
    start = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    return start + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")


def nrrd(array: np.ndarray | None = None, *, content: bytes | None = None, **fields: str | None) -> bytes:
    """A NRRD; `fields` replace or (None) remove header fields, `_` standing for a blank."""
    array = voxels() if array is None else array
    lines: dict[str, str | None] = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)),
        "space directions": "(0.5,0,0) (0,0.75,0) (0,0,2)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(1,2,3)",
    }
    lines.update({name.replace("_", " "): value for name, value in fields.items()})
    text = "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)
    data = array.tobytes(order="F") if content is None else content
    return f"NRRD0004\n{text}\n".encode() + data


def mha(array: np.ndarray | None = None, *, content: bytes | None = None, **fields: str | None) -> bytes:
    """A MetaImage; `fields` replace or (None) remove header fields."""
    array = voxels() if array is None else array
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "0.5 0.75 2",
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": "MET_SHORT",
    }
    data_file = fields.pop("ElementDataFile", "LOCAL")
    lines.update(fields)
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if value is not None)
    end = "" if data_file is None else f"ElementDataFile = {data_file}\n"
    return (text + end).encode() + (array.tobytes(order="F") if content is None else content)


def dicom_slice(z: float, series: str, plane: np.ndarray, **tags: Any) -> FileDataset:
    """One CT slice at height `z` mm (LPS), with stored values `plane` and HU = stored - 1024."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "CT", series, f"{series}.9"
    dataset.SeriesDescription = f"series {series[-1]}"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-20.0, -30.0, z], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.6], 3.0
    dataset.Rows, dataset.Columns = plane.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = plane.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def dicom_series(folder: Path, series: str = "1.2.3.1", heights: tuple[float, ...] = (0, 3, 6, 9), **tags: Any) -> Path:
    """A folder with a CT series of 5 x 4 planes; slice k holds the stored values 100 k + 4 row + column."""
    folder.mkdir(exist_ok=True)
    for k, z in enumerate(heights):
        plane = 100 * k + np.arange(20).reshape(5, 4)
        dicom_slice(z, series, plane, **tags).save_as(folder / f"{series}-{k}.dcm", enforce_file_format=True)
    return folder


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def zeros_gzipped(mebibytes: int) -> bytes:
    """Gzip members of 16 MiB of zeros each: a bomb that is quick to make."""
    return gzipped(bytes(2**24)) * (mebibytes // 16)
