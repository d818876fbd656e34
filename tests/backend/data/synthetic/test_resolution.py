"""What scanning loses is lost in the image and in the mask."""

import pytest
import torch

from backend.data.synthetic.chance import Chance
from backend.data.synthetic.resolution import blurred, cut_field, thick_slices

CPU = torch.device("cpu")


@pytest.fixture
def noise():
    return Chance(0, CPU).noise(24)[0]


@pytest.mark.parametrize("seed", range(4))
def test_thick_slices_average_along_one_axis(noise, seed):
    image, mask = thick_slices(noise, noise > 0, Chance(seed, CPU))
    assert image.std() < 0.9 * noise.std()
    assert not torch.equal(mask, noise > 0)
    constant, whole = thick_slices(
        torch.full_like(noise, 7), torch.ones_like(noise, dtype=torch.bool), Chance(seed, CPU)
    )
    assert torch.allclose(constant, torch.full_like(noise, 7))
    assert whole.all()


def test_a_blur_evens_out_the_image_and_what_is_thin_in_the_mask(noise):
    sheet = torch.zeros_like(noise, dtype=torch.bool)
    sheet[4], sheet[12:18] = True, True
    image, mask = blurred(noise, sheet, 1.0)
    assert image.std() < 0.5 * noise.std()
    assert mask.any(2).any(1).nonzero()[:, 0].tolist() == list(range(12, 18))


def test_beyond_the_end_of_the_volume_there_is_nothing(noise):
    cut = 0
    for seed in range(4):
        image, mask = cut_field(torch.full_like(noise, 7), torch.ones_like(noise, dtype=torch.bool), Chance(seed, CPU))
        assert (image[mask] == 7).all()
        assert (image[~mask] == 0).all()
        assert mask[8:16, 8:16, 8:16].all()  # a third at most, on each side
        cut += not mask.all()
    assert cut >= 3
