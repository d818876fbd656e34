"""Files that must be refused, each with the code of its error; run as a script, it reads those of a folder."""

import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import samples
import tifffile

from backend.errors import ErrorCode as E
from backend.errors import SamMed3DError
from backend.io import read_volume

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 40
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"
HUGE = (1200, 1200, 1200)
Make = bytes | Callable[[Path], object]


def _dims(*sizes: int) -> np.ndarray:
    return np.array([len(sizes), *sizes] + [1] * (7 - len(sizes)))


def nifti_files() -> dict[str, tuple[E, Make]]:
    good, packed = samples.nifti(), samples.gzipped(samples.nifti())
    small = samples.voxels(shape=(3, 4, 5))
    nan, inf = np.full(4, np.nan), np.full(4, np.inf)
    rgb = np.zeros(samples.SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0x10
    qform = {"sform_code": 0, "qform_code": 1}
    nifti2 = {"kind": nib.Nifti2Header}
    return {
        "empty.nii": (E.FILE_FORMAT, b""),
        "empty.nii.gz": (E.FILE_FORMAT, b""),
        "page.nii.gz": (E.FILE_FORMAT, HTML),
        "page-packed.nii.gz": (E.FILE_FORMAT, samples.gzipped(HTML)),
        "text.nii": (E.FILE_FORMAT, b"hello"),
        "pointer.nii.gz": (E.FILE_FORMAT, LFS),
        "picture.nii": (E.FILE_FORMAT, b"\x89PNG\r\n\x1a\n" + bytes(500)),
        "pair.nii": (E.FILE_FORMAT, samples.nifti(magic=b"ni1")),
        "folder.nii.gz": (E.FILE_FORMAT, Path.mkdir),
        "claims-1200.nii.gz": (E.FILE_TRUNCATED, samples.gzipped(samples.nifti(dim=_dims(*HUGE)))),
        "claims-1200.nii": (E.FILE_TRUNCATED, samples.nifti(dim=_dims(*HUGE))),
        "claims-most.nii.gz": (E.FILE_TRUNCATED, samples.gzipped(samples.nifti(dim=_dims(*[32767] * 7)))),
        "claims-a-bit.nii.gz": (E.FILE_TRUNCATED, samples.gzipped(samples.nifti(dim=_dims(8, 9, 11)))),
        "nifti2-claims.nii": (E.FILE_TRUNCATED, samples.nifti(dim=_dims(2**60, 2**60, 2**60), **nifti2)),
        "nifti2-negative.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=_dims(8, -9, 10), **nifti2)),
        "zero-axis.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=_dims(8, 0, 10))),
        "negative-axis.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=_dims(8, 9, -10))),
        "no-axes.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=np.zeros(8))),
        "1d.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=_dims(720))),
        "2d.nii": (E.VOLUME_DIMENSIONS, samples.nifti(dim=_dims(72, 10))),
        "4d.nii.gz": (E.VOLUME_DIMENSIONS, samples.gzipped(samples.nifti(samples.voxels(shape=(3, 4, 5, 6))))),
        "5d.nii": (E.VOLUME_DIMENSIONS, samples.nifti(samples.voxels(shape=(3, 4, 5, 1, 3)))),
        "rgb.nii": (E.VOLUME_DTYPE, samples.nifti(rgb)),
        "complex.nii": (E.VOLUME_DTYPE, samples.nifti(samples.voxels(np.complex64))),
        "datatype-999.nii": (E.FILE_CORRUPT, samples.nifti(datatype=999)),
        "datatype-bit.nii": (E.FILE_CORRUPT, samples.nifti(datatype=1)),
        "sform-nan.nii": (E.VOLUME_GEOMETRY, samples.nifti(srow_x=nan)),
        "sform-inf.nii": (E.VOLUME_GEOMETRY, samples.nifti(srow_z=inf)),
        "sform-zero.nii": (E.VOLUME_GEOMETRY, samples.nifti(srow_x=nan * 0, srow_y=[0] * 4, srow_z=[0] * 4)),
        "sform-singular.nii": (E.VOLUME_GEOMETRY, samples.nifti(srow_x=[1, 2, 3, 0], srow_y=[1, 2, 3, 0])),
        "sform-absurd.nii": (E.VOLUME_GEOMETRY, samples.nifti(srow_x=[1e30, 0, 0, 0])),
        "pixdim-nan.nii": (E.VOLUME_GEOMETRY, samples.nifti(pixdim=np.full(8, np.nan), **qform)),
        "pixdim-absurd.nii": (E.VOLUME_GEOMETRY, samples.nifti(pixdim=np.full(8, 1e30), **qform)),
        "quaternion-long.nii": (E.FILE_CORRUPT, samples.nifti(quatern_b=2, quatern_c=3, **qform)),
        "offset-nan.nii": (E.FILE_CORRUPT, samples.nifti(vox_offset=np.nan)),
        "offset-inf.nii": (E.FILE_CORRUPT, samples.nifti(vox_offset=np.inf)),
        "offset-negative.nii": (E.FILE_CORRUPT, samples.nifti(vox_offset=-1000)),
        "offset-in-header.nii": (E.FILE_CORRUPT, samples.nifti(vox_offset=100)),
        "offset-far.nii": (E.FILE_TRUNCATED, samples.nifti(vox_offset=1e30)),
        "inter-nan.nii": (E.FILE_CORRUPT, samples.nifti(scl_slope=2, scl_inter=np.nan)),
        "cut-header.nii": (E.FILE_TRUNCATED, good[:200]),
        "cut-header.nii.gz": (E.FILE_TRUNCATED, samples.gzipped(good[:200])),
        "cut-data.nii": (E.FILE_TRUNCATED, good[:-1]),
        "cut-half.nii.gz": (E.FILE_TRUNCATED, packed[: len(packed) // 2]),
        "cut-trailer.nii.gz": (E.FILE_TRUNCATED, packed[:-4]),
        "cut-magic.nii.gz": (E.FILE_TRUNCATED, packed[:2]),
        "wrong-crc.nii.gz": (E.FILE_CORRUPT, packed[:-8] + b"\0\0\0\0" + packed[-4:]),
        "wrong-length.nii.gz": (E.FILE_CORRUPT, packed[:-4] + b"\1\0\0\0"),
        "flipped.nii.gz": (E.FILE_CORRUPT, bytes(flipped)),
        "longer.nii": (E.FILE_CORRUPT, good + bytes(3 * 2**20)),
        "bomb.nii.gz": (E.FILE_CORRUPT, samples.gzipped(samples.nifti(small)) + samples.zeros_gzipped(6400)),
        "bomb-true.nii.gz": (
            E.VOLUME_TOO_LARGE,
            samples.gzipped(samples.nifti(small, dim=_dims(1400, 1400, 1400))) + samples.zeros_gzipped(6400),
        ),
    }


def _tiff(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def _edited_tiff(edit: Callable[[bytearray, Any], bytes], **options: Any) -> Callable[[Path], None]:
    """A stack of 10 pages, changed by `edit(content, first page)`."""

    def make(path: Path) -> None:
        tifffile.imwrite(path, samples.voxels().transpose(2, 1, 0), photometric="minisblack", **options)
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            page.dataoffsets, page.tags.values()  # both are read on demand, from the open file
        path.write_bytes(edit(bytearray(path.read_bytes()), page))

    return make


def _set_tag(name: str, value: int) -> Callable[[bytearray, Any], bytes]:
    def edit(content: bytearray, page: Any) -> bytes:
        tag = page.tags[name]
        size = {3: "<H", 4: "<I"}[int(tag.dtype)]
        content[tag.valueoffset : tag.valueoffset + struct.calcsize(size)] = struct.pack(size, value)
        return bytes(content)

    return edit


def _flip_strip(content: bytearray, page: Any) -> bytes:
    content[page.dataoffsets[0] + page.databytecounts[0] // 2] ^= 0x10
    return bytes(content)


def _zeros_deflated() -> bytes:
    """A zlib stream of 256 MiB of zeros."""
    deflate = zlib.compressobj(1)
    return b"".join(deflate.compress(bytes(2**20)) for _ in range(256)) + deflate.flush()


def _two_pages(compression: int, width: int, height: int, strip: bytes) -> bytes:
    """A TIFF of two 8-bit pages that share one strip."""
    tags = [(256, width), (257, height), (258, 8), (259, compression), (262, 1)]
    tags += [(273, 300), (277, 1), (278, height), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries
    second = 8 + len(directory) + 4
    first = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", second)
    return (first + directory + struct.pack("<I", 0)).ljust(300, b"\0") + strip


def tiff_files() -> dict[str, tuple[E, Make]]:
    stack = samples.voxels().transpose(2, 1, 0)
    gray = {"photometric": "minisblack"}
    two = {"photometric": "minisblack", "metadata": {"axes": "TZYX"}, "ome": True}

    def two_series(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            writer.write(stack, **gray)
            writer.write(stack[:, :5], **gray)

    return {
        "empty.tif": (E.FILE_FORMAT, b""),
        "page.tif": (E.FILE_FORMAT, HTML),
        "magic-only.tif": (E.FILE_CORRUPT, b"II*\0"),
        "no-directory.tif": (E.FILE_CORRUPT, b"II*\0\xff\xff\xff\x7f"),
        "rgb.tif": (E.VOLUME_DTYPE, _tiff(np.zeros((5, 6, 7, 3), np.uint8), photometric="rgb")),
        "2d.tif": (E.VOLUME_DIMENSIONS, _tiff(stack[0], **gray)),
        "4d.ome.tif": (E.VOLUME_DIMENSIONS, _tiff(np.zeros((2, 3, 4, 5), np.uint8), **two)),
        "times-only.ome.tif": (
            E.VOLUME_DIMENSIONS,
            _tiff(stack, ome=True, metadata={"axes": "TYX"}, **gray),
        ),
        "complex.tif": (E.VOLUME_DTYPE, _tiff(stack.astype(np.complex64), **gray)),
        "two-images.tif": (E.VOLUME_DIMENSIONS, two_series),
        "cut.tif": (E.FILE_CORRUPT, _edited_tiff(lambda content, page: bytes(content[: page.dataoffsets[0] + 700]))),
        "cut-deflate.tif": (
            E.FILE_CORRUPT,
            _edited_tiff(lambda content, page: bytes(content[: page.dataoffsets[0] + 40]), compression="zlib"),
        ),
        "cut-description.ome.tif": (
            E.FILE_CORRUPT,
            _edited_tiff(lambda content, _: bytes(content[:-50]), ome=True, metadata={"axes": "ZYX"}),
        ),
        "flipped-deflate.tif": (E.FILE_CORRUPT, _edited_tiff(_flip_strip, compression="zlib")),
        "wide.tif": (E.VOLUME_DIMENSIONS, _edited_tiff(_set_tag("ImageWidth", 60000))),
        "strip-far.tif": (E.FILE_TRUNCATED, _edited_tiff(_set_tag("StripOffsets", 2**30), compression="zlib")),
        "strip-missing.tif": (E.FILE_TRUNCATED, _edited_tiff(_set_tag("StripByteCounts", 0), compression="zlib")),
        "bomb.tif": (E.FILE_CORRUPT, _two_pages(8, 9, 8, _zeros_deflated())),
        "claims.tif": (E.FILE_TRUNCATED, _two_pages(1, 30000, 30000, bytes(72))),
        "claims-deflate.tif": (E.FILE_TRUNCATED, _two_pages(8, 30000, 30000, zlib.compress(bytes(72)))),
        "short-deflate.tif": (E.FILE_TRUNCATED, _two_pages(8, 9, 9, zlib.compress(bytes(72)))),
    }


def itk_files() -> dict[str, tuple[E, Make]]:
    raw = samples.voxels().tobytes(order="F")
    packed, deflated = samples.gzipped(raw), zlib.compress(raw)
    nrrd, mha = samples.nrrd, samples.mha
    packed_mha = {"CompressedData": "True"}
    plane = {"dimension": "2", "sizes": "72 10", "space_directions": None, "kinds": None}
    plane |= {"space": None, "space_origin": None, "spacings": "1 1"}
    vector = {"dimension": "4", "sizes": "3 8 9 10", "kinds": "vector domain domain domain"}
    vector |= {"space_directions": "none (1,0,0) (0,1,0) (0,0,1)"}
    frames = {"NDims": "4", "DimSize": "8 9 5 2", "Offset": "0 0 0 0", "ElementSpacing": "1 1 1 1"}
    frames |= {"TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}
    flat = {"NDims": "2", "DimSize": "72 10", "Offset": "0 0", "ElementSpacing": "1 1", "TransformMatrix": "1 0 0 1"}
    return {
        "empty.nrrd": (E.FILE_FORMAT, b""),
        "page.nrrd": (E.FILE_FORMAT, HTML),
        "cut.nrrd": (E.FILE_TRUNCATED, nrrd(content=raw[:-1])),
        "cut-header.nrrd": (E.FILE_CORRUPT, nrrd(content=b"").rstrip() + b"\n"),
        "cut-gzip.nrrd": (E.FILE_TRUNCATED, nrrd(content=packed[:-30], encoding="gzip")),
        "wrong-crc.nrrd": (E.FILE_CORRUPT, nrrd(content=packed[:-8] + b"\0\0\0\0" + packed[-4:], encoding="gzip")),
        "short-gzip.nrrd": (E.FILE_TRUNCATED, nrrd(content=samples.gzipped(raw[:-2]), encoding="gzip")),
        "claims-1200.nrrd": (E.FILE_TRUNCATED, nrrd(sizes="1200 1200 1200")),
        "claims-1200-gzip.nrrd": (E.FILE_TRUNCATED, nrrd(sizes="1200 1200 1200", content=packed, encoding="gzip")),
        "bomb.nrrd": (E.FILE_CORRUPT, nrrd(content=samples.zeros_gzipped(6400), encoding="gzip")),
        "2d.nrrd": (E.VOLUME_DIMENSIONS, nrrd(**plane)),
        "vector.nrrd": (E.VOLUME_DTYPE, nrrd(**vector)),
        "block.nrrd": (E.FILE_CORRUPT, nrrd(type="block")),
        "ascii.nrrd": (E.FILE_FORMAT, nrrd(encoding="ascii")),
        "bzip2.nrrd": (E.FILE_FORMAT, nrrd(encoding="bzip2")),
        "skip.nrrd": (E.FILE_FORMAT, nrrd(byte_skip="10")),
        "detached.nhdr": (E.FILE_MISSING, nrrd(data_file="nowhere.raw", content=b"")),
        "several.nhdr": (E.FILE_MISSING, nrrd(data_file="slice%03d.raw 1 10 1", content=b"")),
        "origin-nan.nrrd": (E.FILE_CORRUPT, nrrd(space_origin="(nan,0,0)")),
        "singular.nrrd": (E.VOLUME_GEOMETRY, nrrd(space_directions="(1,0,0) (1,0,0) (0,0,1)")),
        "absurd.nrrd": (E.VOLUME_GEOMETRY, nrrd(space_directions="(1e9,0,0) (0,1,0) (0,0,1)")),
        "zero-axis.nrrd": (E.FILE_CORRUPT, nrrd(sizes="8 0 10")),
        "negative-axis.nrrd": (E.FILE_CORRUPT, nrrd(sizes="8 -9 10")),
        "empty.mha": (E.FILE_FORMAT, b""),
        "page.mha": (E.FILE_FORMAT, HTML),
        "binary.mha": (E.FILE_FORMAT, bytes(range(256)) * 100),
        "no-data-line.mha": (E.FILE_FORMAT, mha(ElementDataFile=None, content=b"")),
        "cut.mha": (E.FILE_TRUNCATED, mha(content=raw[:-1])),
        "cut-zlib.mha": (E.FILE_TRUNCATED, mha(content=deflated[:-30], **packed_mha)),
        "wrong-adler.mha": (E.FILE_CORRUPT, mha(content=deflated[:-4] + b"\0\0\0\0", **packed_mha)),
        "claims-1200.mha": (E.FILE_TRUNCATED, mha(DimSize="1200 1200 1200")),
        "claims-1200-zlib.mha": (E.FILE_TRUNCATED, mha(DimSize="1200 1200 1200", content=deflated, **packed_mha)),
        "bomb.mha": (E.FILE_CORRUPT, mha(content=_zeros_deflated(), **packed_mha)),
        "2d.mha": (E.VOLUME_DIMENSIONS, mha(**flat)),
        "4d.mha": (E.VOLUME_DIMENSIONS, mha(**frames)),
        "vector.mha": (E.VOLUME_DTYPE, mha(content=raw * 3, ElementNumberOfChannels="3")),
        "text.mha": (E.FILE_FORMAT, mha(BinaryData="False")),
        "header-size.mha": (E.FILE_FORMAT, mha(HeaderSize="100")),
        "detached.mhd": (E.FILE_MISSING, mha(ElementDataFile="nowhere.raw", content=b"")),
        "list.mhd": (E.FILE_MISSING, mha(ElementDataFile="LIST", content=b"a.raw\nb.raw\n")),
        "singular.mha": (E.VOLUME_GEOMETRY, mha(TransformMatrix="1 0 0 1 0 0 0 0 1")),
        "zero-spacing.mha": (E.VOLUME_GEOMETRY, mha(ElementSpacing="0 1 1")),
        "negative-axis.mha": (E.FILE_TRUNCATED, mha(DimSize="8 -9 10")),
    }


def _changed_slice(change: Callable[[bytes], bytes], **tags: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        samples.dicom_series(folder, **tags)
        path = sorted(folder.iterdir())[1]
        path.write_bytes(change(path.read_bytes()))

    return make


def dicom_files() -> dict[str, tuple[E, Make]]:
    def foreign_only(folder: Path) -> None:
        folder.mkdir()
        (folder / "notes.txt").write_text("nothing to see")

    def two_series(folder: Path) -> None:
        samples.dicom_series(samples.dicom_series(folder), "1.2.3.2")

    def series(**options: Any) -> Callable[[Path], object]:
        return lambda folder: samples.dicom_series(folder, **options)

    return {
        "dicom-empty": (E.FILE_FORMAT, Path.mkdir),
        "dicom-foreign": (E.FILE_FORMAT, foreign_only),
        "dicom-two-series": (E.FILE_FORMAT, two_series),
        "dicom-missing-slice": (E.VOLUME_GEOMETRY, series(heights=(0, 3, 9, 12))),
        "dicom-twice": (E.VOLUME_GEOMETRY, series(heights=(0, 3, 3, 6))),
        "dicom-cut": (E.FILE_CORRUPT, _changed_slice(lambda content: content[:-10])),
        "dicom-garbage": (E.FILE_CORRUPT, _changed_slice(lambda content: content[:132] + HTML)),
        "dicom-claims": (E.FILE_TRUNCATED, series(Rows=60000, Columns=60000)),
        "dicom-no-rows": (E.VOLUME_DIMENSIONS, series(Rows=0)),
        "dicom-colour": (E.VOLUME_DTYPE, series(SamplesPerPixel=3)),
        "dicom-no-place": (E.VOLUME_GEOMETRY, series(ImagePositionPatient=None)),
        "dicom-turned": (E.VOLUME_GEOMETRY, series(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        "dicom-frames": (E.FILE_FORMAT, series(NumberOfFrames=7)),
        "page.dcm": (E.FILE_FORMAT, HTML),
        "garbage.dcm": (E.FILE_CORRUPT, bytes(128) + b"DICM" + HTML),
        "unknown.xyz": (E.FILE_FORMAT, b"whatever"),
    }


def corpus() -> dict[str, tuple[E, Make]]:
    return nifti_files() | tiff_files() | itk_files() | dicom_files()


def write(folder: Path) -> dict[str, E]:
    """Make the files, and return which error each must give."""
    codes = {}
    for name, (code, make) in corpus().items():
        path = folder / name
        if isinstance(make, bytes):
            path.write_bytes(make)
        else:
            make(path)
        codes[name] = code
    return codes


def outcome(path: Path) -> str:
    """The code of the error that reading gives, or what happened instead."""
    try:
        volume = read_volume(path)
    except SamMed3DError as error:
        return str(error.code) if path.name in error.problem else f"does not name the file: {error}"
    except BaseException as error:  # any other exception is what the test looks for
        return f"{type(error).__name__}: {error}"
    return f"read as {volume}"


def memory(field: str) -> float:
    """MiB of this process now (VmRSS) or at its peak (VmHWM); ru_maxrss would begin with the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def main(folder: Path, good: Path) -> None:
    """Print the outcome of every file, and by how much the process grew over the reading of good files (MiB)."""
    import resource

    warnings.simplefilter("ignore")
    for path in sorted(good.iterdir()):  # imports the libraries and warms them up
        read_volume(path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = memory("VmRSS")
    outcomes = {path.name: outcome(path) for path in sorted(folder.iterdir())}
    print(json.dumps({"outcomes": outcomes, "growth": memory("VmHWM") - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
