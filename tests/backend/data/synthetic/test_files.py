"""A case on disk: whole or not there, whatever else writes beside it."""

import numpy as np
import pytest
import torch

from backend.data.synthetic import files
from backend.data.synthetic.files import write_case
from backend.data.synthetic.generator import Pair
from backend.errors import ErrorCode, SamMed3DError
from backend.io import read_volume


def test_a_case_that_another_process_wrote_meanwhile_is_there(tmp_path, monkeypatch):
    folder, inner, write_mask = tmp_path / "case", [], files.write_mask

    def meanwhile(*args):
        monkeypatch.setattr(files, "write_mask", write_mask)
        inner.append(write_case(folder, 0, 16, 1.0))
        write_mask(*args)

    monkeypatch.setattr(files, "write_mask", meanwhile)
    assert write_case(folder, 0, 16, 1.0) is False
    assert inner == [True]
    assert list(tmp_path.iterdir()) == [folder]
    assert len(list(folder.iterdir())) == 3


def test_writing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "write_mask", full)
    with pytest.raises(SamMed3DError, match="No space left") as caught:
        write_case(tmp_path / "case", 0, 16, 1.0)
    assert caught.value.code == ErrorCode.FILE_WRITE
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_no_case(tmp_path):
    (tmp_path / "case").mkdir()
    assert write_case(tmp_path / "case", 0, 16, 1.0)
    assert (tmp_path / "case" / "meta.json").is_file()


def test_hounsfield_units_are_rounded(tmp_path, monkeypatch):
    image = torch.full((16, 16, 16), -0.6)
    image[0] = 1.7
    monkeypatch.setattr(files, "generate", lambda *_: Pair(image, image > 0, "CT"))
    write_case(tmp_path / "case", 0, 16, 1.0)
    stored = np.asarray(read_volume(tmp_path / "case" / "image.nii.gz").array)
    assert stored.dtype == np.int16
    assert np.unique(stored).tolist() == [-1, 2]


def test_a_case_can_be_read_by_others(tmp_path):
    write_case(tmp_path / "case", 0, 16, 1.0)
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "case").stat().st_mode == (tmp_path / "plain").stat().st_mode
