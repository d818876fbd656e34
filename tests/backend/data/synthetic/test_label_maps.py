"""Label-map files as shapes."""

import nibabel as nib
import numpy as np
import pytest
import torch

from backend.data.synthetic.chance import Chance
from backend.data.synthetic.label_maps import read_label_maps
from backend.errors import ErrorCode, SamMed3DError

CPU = torch.device("cpu")


def save(path, labels, affine=None):
    nib.save(nib.Nifti1Image(labels, np.diag([1.0, 1, 1, 1]) if affine is None else affine), path)


def test_a_map_is_canonical_isotropic_and_without_gaps_in_its_numbers(tmp_path):
    labels = np.zeros((10, 12, 6), dtype=np.int16)
    labels[:5] = 7
    labels[5:, 6:] = 300
    save(tmp_path / "a.nii.gz", labels, np.diag([-2.0, 2, 4, 1]))
    (read,) = read_label_maps([tmp_path], CPU)
    assert read.labels.shape == (10, 12, 12)
    assert read.labels.unique().tolist() == [0, 1, 2]
    assert (read.labels[5:] == 1).all()  # the first axis ran to the left


def test_the_chosen_label_comes_last_over_the_surrounding(tmp_path):
    labels = np.zeros((32, 32, 32), dtype=np.uint8)
    labels[8:24, 8:24, 8:24] = 1
    save(tmp_path / "a.nii.gz", labels)
    (read,) = read_label_maps([tmp_path / "a.nii.gz"], CPU)
    surrounding = torch.full((16, 16, 16), 3, dtype=torch.uint8)
    shares = []
    for seed in range(20):
        placed, voxel = read.placed(surrounding, Chance(seed, CPU))
        assert 0.09 <= voxel <= 2  # the label is 16 voxels wide, and from 0.09 to twice the crop's 16
        assert set(placed.unique().tolist()) <= {3, 5}
        shares.append(float((placed == 5).float().mean()))
    assert min(shares) < 0.05
    assert max(shares) > 0.3  # of all sizes


@pytest.mark.parametrize("labels", [np.zeros((4, 4, 4), np.uint8), np.arange(512, dtype=np.int16).reshape(8, 8, 8)])
def test_a_file_that_is_no_label_map_is_refused_by_name(tmp_path, labels):
    save(tmp_path / "a.nii.gz", labels)
    with pytest.raises(SamMed3DError, match=r"a\.nii\.gz has \d+ labels") as caught:
        read_label_maps([tmp_path], CPU)
    assert caught.value.code == ErrorCode.DATA_SOURCE


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(SamMed3DError, match="no label map"):
        read_label_maps([tmp_path], CPU)
