"""The intensities that the network sees (published inference: z-normalisation of one crop)."""

import warnings

import numpy as np
import numpy.typing as npt

from backend.errors import SamMed3DWarning

Crop = npt.NDArray[np.float32]

# Below this share of the mean, float32 cannot tell voxels apart.
RESOLUTION = 2.0**-23
# Below this, the reciprocal is beyond float32.
SMALLEST = 1e-38
# In standard deviations. No voxel > 0 of a crop of 128^3 can be beyond 1450, so no image is changed by it.
LIMIT = np.float32(1e4)


def normalise(crop: Crop) -> Crop:
    """Subtract the mean and divide by the (unbiased) standard deviation of the voxels > 0 of this crop.

    Non-finite voxels count as 0, the value of the padding. A crop without voxels > 0 (all air) is
    normalised by all its voxels, a constant one only centred: the output is always finite.

    Args:
        crop: float32, any shape.

    Warns:
        SamMed3DWarning: voxels were not finite, or there was nothing to normalise by.
    """
    finite = np.isfinite(crop)
    if not finite.all():
        count = int(crop.size - np.count_nonzero(finite))
        _warn(f"{count} of {crop.size} voxels around the click are NaN or infinite; they are taken as 0.")
        crop = np.where(finite, crop, 0)
    foreground = crop[crop > 0]
    if foreground.size < 2:
        _warn(
            f"Only {foreground.size} of {crop.size} voxels around the click are brighter than 0, the value of air; "
            "is the click on the body?"
        )
        foreground = crop.ravel()
    mean = float(foreground.mean(dtype=np.float64))
    deviation = float(foreground.std(ddof=1, dtype=np.float64))
    if deviation <= max(RESOLUTION * abs(mean), SMALLEST):
        _warn(f"The voxels around the click all have the value {mean:g}: there is nothing to see in them.")
        deviation = 1.0
    with np.errstate(over="ignore"):  # of values near the end of float32
        normalised: Crop = (crop - np.float32(mean)) * np.float32(1 / deviation)
    return normalised.clip(-LIMIT, LIMIT)


def normalise_quietly(crop: Crop) -> Crop:
    """`normalise` for training, where nobody clicked: a crop of air among thousands is not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamMed3DWarning)
        return normalise(crop)


def _warn(message: str) -> None:
    warnings.warn(message, SamMed3DWarning, stacklevel=3)
