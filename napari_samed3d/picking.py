"""A click in the 3D view: the first voxel along its ray that is bright enough."""

import numpy as np
import numpy.typing as npt
from napari.layers import Image

from napari_samed3d.frames import voxels_of

# Half a voxel, so that no voxel on the way is stepped over by more than its corner.
STEP = 0.5
# Steps of a ray that are read at once.
PIECE = 64


def first_voxel_above(
    image: Image, position: npt.ArrayLike, direction: npt.ArrayLike, dims_displayed: list[int], threshold: float
) -> npt.NDArray[np.float64] | None:
    """Data index of the first voxel above `threshold` on the ray from `position` along `direction` (world).

    None if the ray misses the image, or meets nothing above the threshold.
    """
    start, end = image.get_ray_intersections(position, direction, dims_displayed)
    if start is None or end is None:
        return None
    data = voxels_of(image)
    count = max(2, int(np.ceil(np.linalg.norm(end - start) / STEP)) + 1)
    ray = np.linspace(start, end, count)
    ray = ray[_visible(image, ray[:, dims_displayed])]
    if not len(ray):
        return None
    voxels = np.clip(np.rint(ray).astype(int), 0, np.array(data.shape) - 1)
    # Of a lazy array no more is read than lies around a piece of the ray.
    for part in np.split(voxels, range(PIECE, len(voxels), PIECE)):
        low, high = part.min(axis=0), part.max(axis=0) + 1
        around = np.asarray(data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        above = np.flatnonzero(around[tuple((part - low).T)] > threshold)
        if len(above):
            return np.asarray(part[above[0]], dtype=np.float64)
    return None


def _visible(image: Image, ray: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points (N, 3) of a ray, in displayed axes, are not clipped away; of a plane, the one nearest to it."""
    seen = np.ones(len(ray), dtype=bool)
    for plane in image.experimental_clipping_planes:
        if plane.enabled:
            seen &= (ray - plane.position) @ np.asarray(plane.normal) >= 0
    if image.depiction == "plane":
        depth = (ray - image.plane.position) @ np.asarray(image.plane.normal)
        crosses = bool(depth.min() <= 0 <= depth.max())
        seen &= crosses & (np.arange(len(ray)) == np.abs(depth).argmin())
    return seen


def intensity_range(image: Image) -> tuple[float, float]:
    """About the darkest and the brightest voxel of an image, between which a threshold makes sense."""
    data = voxels_of(image)
    if not isinstance(data, np.ndarray):  # to look at all of a lazy array may take minutes
        low, high = image.contrast_limits_range
        return low, high
    sample = data[tuple(slice(None, None, max(1, n // 64)) for n in data.shape)]
    sample = sample[np.isfinite(sample)]
    low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 0.0)
    return low, high if high > low else low + 1
