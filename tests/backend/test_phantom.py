import nibabel as nib
import numpy as np
import pytest

from backend.phantom import ORGANS, torso


def test_torso_is_the_same_at_every_call_and_knows_its_organs() -> None:
    phantom = torso((80, 60, 40), (4, 4, 7))
    again = torso((80, 60, 40), (4, 4, 7))
    voxels = np.asarray(phantom.volume.array)
    np.testing.assert_array_equal(voxels, again.volume.array)
    assert voxels.dtype == "i2"
    assert voxels.shape == phantom.labels.shape
    assert nib.aff2axcodes(phantom.volume.affine) == ("L", "P", "S")
    assert phantom.volume.spacing == pytest.approx((4, 4, 7))
    for label, (name, (_, _, intensity)) in enumerate(ORGANS.items(), start=1):
        assert phantom.labels[phantom.middle_of(name)] == label
        assert abs(np.median(voxels[phantom.labels == label]) - intensity) < 80, name


def test_organs_lie_on_their_side_of_the_patient() -> None:
    phantom = torso((80, 60, 40), (4, 4, 7))
    liver, spleen = (phantom.volume.affine @ [*phantom.middle_of(name), 1] for name in ("liver", "spleen"))
    assert liver[0] > 0 > spleen[0]  # mm to the patient's right
    middle = (np.array(phantom.volume.shape) - 1) / 2
    np.testing.assert_allclose(phantom.volume.affine @ [*middle, 1], [0, 0, 0, 1], atol=1e-9)
