"""Label-map files as shapes."""

import nibabel as nib
import numpy as np
import pytest
import torch

from backend.data.synthetic import label_maps
from backend.data.synthetic.chance import Chance
from backend.data.synthetic.label_maps import LabelMap, read_label_maps
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


def directions(as_anatomy, monkeypatch):
    """From the middle of a map's label 1 to that of its label 2, which lies at its right and above, in many crops."""
    monkeypatch.setattr(label_maps, "AS_ANATOMY", as_anatomy)
    labels = torch.ones(40, 40, 40, dtype=torch.uint8)
    x, _, z = torch.meshgrid(*3 * (torch.arange(40),), indexing="ij")
    labels[x + z > 39] = 2
    read, surrounding, found = LabelMap(labels, 6.0), torch.zeros(16, 16, 16, dtype=torch.uint8), []
    for seed in range(60):
        placed, _ = read.placed(surrounding, Chance(seed, CPU))
        one, two = (1, 3) if (placed == 1).any() else (3, 2)  # the chosen one comes last
        middles = [torch.nonzero(placed == label).float().mean(0) for label in (one, two)]
        found.append(middles[1] - middles[0])
    both = torch.stack(found)
    return both[both.isfinite().all(1)]  # those that show both


def test_as_anatomy_a_map_is_mirrored_half_the_time_and_never_upside_down(monkeypatch):
    found = directions(1.0, monkeypatch)
    assert len(found) > 20
    assert 0.25 < (found[:, 0] > 0).float().mean() < 0.75
    assert (found[:, 2] > 0).all()


def test_fitted_to_an_object_a_map_is_turned_at_times(monkeypatch):
    upright = (directions(0.0, monkeypatch)[:, [0, 2]] > 0).all(1).float().mean()
    assert 0.4 < upright < 0.85


def test_a_rotation_points_anywhere():
    chance = Chance(0, CPU)
    turns = torch.stack([chance.rotation() for _ in range(400)])
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(400, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(400), atol=1e-5)
    assert turns.mean(0).abs().max() < 0.15
    assert 0.4 < (turns[:, 0, 0] > 0).float().mean() < 0.6


def test_a_tilt_turns_a_little():
    chance = Chance(0, CPU)
    turns = torch.stack([chance.rotation(0.12) for _ in range(200)])
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(200, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(200), atol=1e-5)
    angles = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).arccos()
    assert 0.2 < angles.max() <= 0.9


@pytest.mark.parametrize("labels", [np.zeros((4, 4, 4), np.uint8), np.arange(512, dtype=np.int16).reshape(8, 8, 8)])
def test_a_file_with_no_or_too_many_labels_is_refused_by_name(tmp_path, labels):
    save(tmp_path / "a.nii.gz", labels)
    with pytest.raises(SamMed3DError, match=r"a\.nii\.gz has \d+ labels") as caught:
        read_label_maps([tmp_path], CPU)
    assert caught.value.code == ErrorCode.DATA_SOURCE


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 0.5])
def test_a_file_of_other_than_labels_is_refused_by_name(tmp_path, value):
    labels = np.zeros((4, 4, 4), dtype=np.float32)
    labels[1], labels[2] = 1, value
    save(tmp_path / "a.nii.gz", labels)
    with pytest.raises(SamMed3DError, match=r"a\.nii\.gz are not whole numbers from 0") as caught:
        read_label_maps([tmp_path], CPU)
    assert caught.value.code == ErrorCode.DATA_SOURCE


def test_labels_that_differ_by_rounding_are_one(tmp_path):
    labels = np.zeros((4, 4, 4), dtype=np.float32)
    labels[1], labels[2] = 1, 1.0000001
    save(tmp_path / "a.nii.gz", labels)
    ((read,),) = read_label_maps([tmp_path], CPU)
    assert read.labels.unique().tolist() == [0, 1]


def test_a_map_too_small_for_its_voxels_is_refused_with_the_reason(tmp_path):
    thin = np.zeros((40, 40, 40), dtype=np.uint8)
    thin[0, 0, 0] = 1
    for labels in (thin, np.ones((10, 10, 10), dtype=np.uint8)):
        save(tmp_path / "a.nii.gz", labels, np.diag([0.1, 0.1, 0.1, 1]))
        with pytest.raises(SamMed3DError, match=r"At 1 mm, .*a\.nii\.gz") as caught:
            read_label_maps([tmp_path], CPU)
        assert caught.value.code == ErrorCode.DATA_SOURCE


def test_hidden_files_and_slices_of_a_series_are_no_label_maps(tmp_path):
    save(tmp_path / "a.nii.gz", np.ones((4, 4, 4), dtype=np.uint8))
    (tmp_path / "._a.nii.gz").write_bytes(b"of macOS")
    (tmp_path / "1.dcm").write_bytes(b"a slice")
    ((_,),) = read_label_maps([tmp_path], CPU)


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(SamMed3DError, match="no label map"):
        read_label_maps([tmp_path], CPU)


def test_a_path_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(SamMed3DError, match="none does not exist") as caught:
        read_label_maps([tmp_path / "none"], CPU)
    assert caught.value.code == ErrorCode.FILE_MISSING
