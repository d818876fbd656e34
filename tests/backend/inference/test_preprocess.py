import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.errors import SamMed3DWarning
from backend.inference.preprocess import normalise

Crop = npt.NDArray[np.float32]


def crop(fill: float = 0) -> Crop:
    return np.full((8, 8, 8), fill, dtype=np.float32)


def test_voxels_above_zero_set_the_contrast() -> None:
    image = np.random.default_rng(0).normal(10, 20, (8, 8, 8)).astype(np.float32)
    out = normalise(image)
    assert out.dtype == np.float32
    bright = image[image > 0]
    np.testing.assert_allclose(out, (image - bright.mean()) / bright.std(ddof=1), atol=1e-5)
    assert not np.shares_memory(out, image)


def test_air_is_normalised_by_all_its_voxels() -> None:
    air = np.random.default_rng(0).normal(-1000, 5, (8, 8, 8)).astype(np.float32)
    with pytest.warns(SamMed3DWarning, match="0 of 512 voxels"):
        out = normalise(air)
    assert abs(out.mean()) < 1e-3
    assert abs(out.std() - 1) < 1e-2


@pytest.mark.parametrize("value", [0, 1, -1000, 0.1, 1e-30, 3e38])
def test_constant_crop_is_only_centred(value: float) -> None:
    with pytest.warns(SamMed3DWarning) as caught:
        out = normalise(crop(value))
    assert "all have the value" in str(caught[-1].message)
    assert not out.any()


def test_single_bright_voxel_does_not_set_the_contrast() -> None:
    image = crop()
    image[1, 2, 3] = 5
    with pytest.warns(SamMed3DWarning, match="Only 1 of 512"):
        out = normalise(image)
    assert out.argmax() == image.argmax()
    assert np.isfinite(out).all()


def test_bad_voxels_are_counted_and_taken_as_zero() -> None:
    image = np.random.default_rng(0).uniform(1, 2, (8, 8, 8)).astype(np.float32)
    mended = image.copy()
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    mended[0, 0, :3] = 0
    with pytest.warns(SamMed3DWarning, match="3 of 512 voxels"):
        out = normalise(image)
    np.testing.assert_array_equal(out, normalise(mended))
    assert np.isnan(image[0, 0, 0])  # the caller's crop is left alone


@settings(deadline=None)
@given(arrays(np.float32, (3, 3, 3), elements=st.floats(width=32)))
def test_output_is_always_finite(image: Crop) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamMed3DWarning)
        assert np.isfinite(normalise(image)).all()
