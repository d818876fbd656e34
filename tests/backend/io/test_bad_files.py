import json
import os
import subprocess
import sys
from pathlib import Path

import bad_files
import pytest
import samples
import tifffile

from backend.errors import ErrorCode, SamMed3DError
from backend.io import read_volume

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
    assert report["growth"] < 150


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SamMed3DError, match=r"nowhere\.nii") as caught:
        read_volume(tmp_path / "nowhere.nii")
    assert caught.value.code is ErrorCode.FILE_MISSING


def test_both_numbers_are_given_when_memory_is_short(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    path.write_bytes(samples.nifti(samples.voxels(shape=(128, 128, 128))))  # 4 MiB
    monkeypatch.setattr("backend.io.guard.available_memory", lambda: 3 * 2**20)
    with pytest.raises(SamMed3DError, match="needs 4 MiB of memory, but 3 MiB are available") as caught:
        read_volume(path)
    assert caught.value.code is ErrorCode.VOLUME_TOO_LARGE
