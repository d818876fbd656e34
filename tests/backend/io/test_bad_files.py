import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import bad_files
import numpy as np
import pytest
import samples
import tifffile

from backend.errors import ErrorCode, SamMed3DError
from backend.io import read_volume
from backend.io.guard import _left_by_limits
from backend.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore:.*TIFF has no place:backend.errors.SamMed3DWarning")

ROOT = Path(__file__).resolve().parents[3]


def write_good_files(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(samples.gzipped(samples.nifti()))
    (folder / "a.nrrd").write_bytes(samples.nrrd())
    (folder / "a.mha").write_bytes(samples.mha())
    tifffile.imwrite(folder / "a.tif", samples.voxels().transpose(2, 1, 0), compression="zlib")
    samples.dicom_series(folder / "series")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited and measured as on Linux")
def test_every_bad_file_gives_its_error_in_little_memory(tmp_path):
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    expected = bad_files.write(bad)
    write_good_files(good)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, bad_files.__file__, bad, good], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    report = json.loads(child.stdout)
    assert len(expected) >= 60
    wrong = {name: (report["outcomes"][name], str(code)) for name, code in expected.items()}
    assert {name: pair for name, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert report["growth"] < 150, report["growth"]


def small_files(folder: Path) -> dict[str, bytes]:
    raw = samples.voxels().tobytes(order="F")
    stack, spacing = samples.voxels().transpose(2, 1, 0), {"axes": "ZYX", "PhysicalSizeZ": 2.0}
    packed = {"photometric": "minisblack", "compression": "zlib"}
    tifffile.imwrite(folder / "a.tif", stack, metadata=None, photometric="minisblack")
    tifffile.imwrite(folder / "a.ome.tif", stack, metadata=spacing, **packed)
    return {
        "plain.nii": samples.nifti(),
        "plain.nrrd": samples.nrrd(),
        "packed.nrrd": samples.nrrd(content=samples.gzipped(raw), encoding="gzip"),
        "plain.mha": samples.mha(),
        "packed.mha": samples.mha(content=zlib.compress(raw), CompressedData="True"),
        "plain.tif": (folder / "a.tif").read_bytes(),
        "packed.ome.tif": (folder / "a.ome.tif").read_bytes(),
    }


@pytest.mark.filterwarnings("ignore::backend.errors.SamMed3DWarning")
def test_cuts_are_never_silent_and_flips_raise_nothing_else(tmp_path, rng):
    for name, content in small_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        good = read_volume(path)
        for size in rng.integers(0, len(content), 60):
            path.write_bytes(content[:size])
            volume = read_or_none(path)
            if volume is not None:  # cut within padding
                np.testing.assert_array_equal(volume.array, good.array)
                np.testing.assert_array_equal(volume.affine, good.affine)
        for bit in rng.integers(0, 8 * min(len(content), 600), 60):  # the header: most voxels have no checksum
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            read_or_none(path)


def read_or_none(path: Path) -> Volume | None:
    try:
        return read_volume(path)
    except SamMed3DError:
        return None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SamMed3DError, match=r"nowhere\.nii") as caught:
        read_volume(tmp_path / "nowhere.nii")
    assert caught.value.code is ErrorCode.FILE_MISSING


def test_the_limit_of_a_container_counts(tmp_path):
    """That of a group above, too; what files fill can be had."""
    job = tmp_path / "groups" / "job" / "step"
    job.mkdir(parents=True)
    for folder, most in ((job, "max"), (job.parent, "1000")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    (tmp_path / "own").write_text("1:name=x:/\n0::/job/step\n")
    assert list(_left_by_limits(tmp_path / "groups", tmp_path / "own")) == [500]
    assert list(_left_by_limits(tmp_path / "groups", tmp_path / "none")) == []


def test_both_numbers_are_given_when_memory_is_short(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    path.write_bytes(samples.nifti(samples.voxels(shape=(128, 128, 128))))  # 4 MiB
    monkeypatch.setattr("backend.io.guard.available_memory", lambda: 3 * 2**20)
    with pytest.raises(SamMed3DError, match="needs 4 MiB of memory, but 3 MiB are available") as caught:
        read_volume(path)
    assert caught.value.code is ErrorCode.VOLUME_TOO_LARGE
