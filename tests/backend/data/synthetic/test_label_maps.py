"""Label-map files as shapes."""

import nibabel as nib
import numpy as np
import pytest
import torch

from backend.data.synthetic import label_maps
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
    ((read,),) = read_label_maps([tmp_path], CPU)
    assert read.spacing == 2
    assert read.labels.shape == (10, 12, 12)
    assert read.labels.unique().tolist() == [0, 1, 2]
    assert (read.labels[5:] == 1).all()  # the first axis ran to the left


def test_the_chosen_label_comes_last_over_the_surrounding(tmp_path):
    labels = np.zeros((32, 32, 32), dtype=np.uint8)
    labels[8:24, 8:24, 8:24] = 1
    save(tmp_path / "a.nii.gz", labels)
    ((read,),) = read_label_maps([tmp_path / "a.nii.gz"], CPU)
    surrounding = torch.full((16, 16, 16), 3, dtype=torch.uint8)
    shares = []
    for seed in range(20):
        placed, voxel = read.placed(surrounding, Chance(seed, CPU))
        # The label is 16 voxels wide, and from 0.09 to twice the crop's 16; or the crop is 60 to 160 mm wide.
        assert 0.09 <= voxel <= 2
        assert set(placed.unique().tolist()) <= {3, 5}
        shares.append(float((placed == 5).float().mean()))
    assert min(shares) < 0.05
    assert max(shares) > 0.3  # of all sizes


def test_as_anatomy_a_map_is_upright_in_millimetres_and_the_object_lies_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "AS_ANATOMY", 1.0)
    labels = np.ones((60, 60, 60), dtype=np.uint8)
    labels[:, :, 30:] = 2
    labels[:, 30:, 30:] = 3
    save(tmp_path / "a.nii.gz", labels, np.diag([4.0, 4, 4, 1]))
    ((read,),) = read_label_maps([tmp_path], CPU)
    surrounding, middles = torch.zeros((32, 32, 32), dtype=torch.uint8), []
    for seed in range(20):
        placed, voxel = read.placed(surrounding, Chance(seed, CPU))
        assert 60 <= 32 / voxel * read.spacing <= 160
        values, count = placed[14:18, 14:18, 14:18].unique(return_counts=True)
        middles.append(bool(values[count.argmax()] == placed.max()))  # the chosen label comes last
        below, above = placed[..., :10].float(), placed[..., 22:].float()
        assert (below == 1).float().mean() >= (above == 1).float().mean()  # what is below stays below
    assert sum(middles) >= 16  # where the map is bent most, it may lie a little beside


def test_a_path_given_twice_is_a_group_twice_and_read_once(tmp_path):
    labels = np.ones((4, 4, 4), dtype=np.uint8)
    for name in ("a/1.nii.gz", "a/2.nii.gz", "b/3.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, labels)
    first, second, other = read_label_maps([tmp_path / "a", tmp_path / "a", tmp_path / "b"], CPU)
    assert first is second
    assert (len(first), len(other)) == (2, 1)


def test_a_rotation_turns_and_a_tilt_turns_a_little():
    chance = Chance(0, CPU)
    for tilt, furthest in ((None, 3.2), (0.12, 0.9)):
        turns = torch.stack([chance.rotation(tilt) for _ in range(200)])
        assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(200, 3, 3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(turns), torch.ones(200), atol=1e-5)
        angles = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).arccos()
        assert furthest / 4 < angles.max() <= furthest


@pytest.mark.parametrize("labels", [np.zeros((4, 4, 4), np.uint8), np.arange(512, dtype=np.int16).reshape(8, 8, 8)])
def test_a_file_that_is_no_label_map_is_refused_by_name(tmp_path, labels):
    save(tmp_path / "a.nii.gz", labels)
    with pytest.raises(SamMed3DError, match=r"a\.nii\.gz has \d+ labels") as caught:
        read_label_maps([tmp_path], CPU)
    assert caught.value.code == ErrorCode.DATA_SOURCE


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(SamMed3DError, match="no label map"):
        read_label_maps([tmp_path], CPU)
