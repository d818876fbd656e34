"""Medical volumes as image layers: upright, in mm, with the file's exact geometry kept for saving."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.volume import Volume

AIR_HU = -900
SOFT_TISSUE_HU = (-160.0, 240.0)
# A file of more frames is a time series, of which nobody wants every volume as a layer.
MOST_FRAMES = 8

# Files opened within so many seconds of each other were dropped or chosen together.
TOGETHER_S = 5.0
# What napari understands as nothing to show, and no mistake.
NOTHING = (None,)

LayerTuple = tuple[Any, ...]
PathOrPaths = str | Sequence[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """The reader for a path, or None where it is not for us (npe2)."""
    paths = [path] if isinstance(path, str) else path
    return read_volumes if all(map(_may_be_a_volume, paths)) else None


def _may_be_a_volume(path: str) -> bool:
    """By its ending, or a folder that is not of a kind that other readers open."""
    from backend.io import READABLE_SUFFIXES

    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises what a folder refuses
        return path.lower().endswith(READABLE_SUFFIXES)
    others = (f"{path}/{name}" for name in (".zgroup", ".zarray", "zarr.json"))
    return not any(map(os.path.exists, others))


def read_volumes(path: PathOrPaths) -> list[LayerTuple]:
    """One layer a path: an image, or labels where the file says so; of a file of a few frames, one for each.

    Of several DICOM files of a series, which each stand for all of it, the first gives the layer and the others none.

    Raises:
        SamMed3DError: the file is not a volume; napari shows what to do.
    """
    layers = []
    for p in [path] if isinstance(path, str) else path:
        try:
            if _SERIES.is_new(p):
                layers += _layers(p)
        finally:  # reading a large one takes longer than files that are opened together are apart
            _SERIES.when = monotonic()
    return layers or [NOTHING]


class _LastSeries:
    """The DICOM series opened last: napari asks for files that are dropped together one by one, hundreds of them."""

    def __init__(self) -> None:
        self._first: dict[tuple[Path, str], str] = {}  # the file that each was opened by, of a folder
        self.when = 0.0  # a file was opened last

    def is_new(self, path: str) -> bool:
        """Whether a path is anything but another file of a series that was opened just now."""
        if monotonic() - self.when >= TOGETHER_S:
            self._first.clear()
        uid = _series_uid(path)
        return uid is None or self._first.setdefault((Path(path).parent, uid), path) == path


_SERIES = _LastSeries()


def _series_uid(path: str) -> str | None:
    from backend.io import series_uid

    return series_uid(path)


def _layers(path: str) -> list[LayerTuple]:
    from backend.io import FramesError, read_volume

    name = _stem(path)
    try:
        return [volume_layer(read_volume(path), name)]
    except FramesError as several:
        if several.frames > MOST_FRAMES:
            raise
        return [volume_layer(read_volume(path, n), f"{name} [{n}]") for n in range(several.frames)]


def _stem(path: str) -> str:
    """The file's name without what says its format."""
    from backend.io import READABLE_SUFFIXES

    name = Path(path).name
    endings = sorted((s for s in READABLE_SUFFIXES if name.lower().endswith(s)), key=len)
    return name[: -len(endings[-1])] if endings else name


def volume_layer(volume: Volume, name: str) -> LayerTuple:
    """A volume as an image layer, in a window of intensities with something to see; a label map as labels."""
    from napari_samed3d.frames import shown_layer

    data, kwargs = shown_layer(volume, np.asarray(volume.array))
    labels = as_labels(data) if is_label_map(volume) else None
    if labels is not None:
        return labels, {"name": name, **kwargs}, "labels"
    return data, {"name": name, "contrast_limits": contrast_limits(data), **kwargs}, "image"


def is_label_map(volume: Volume) -> bool:
    """Whether the file says that its voxels are labels, as our masks in NIfTI do."""
    header = volume.source.header
    return volume.source.format == "nifti" and header is not None and header.get_intent()[0] == "label"


def as_labels(data: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The voxels as integers, which napari's labels must be, or None if they are not whole numbers, or below 0.

    Many programs write labels as floating-point numbers, or with a factor of 1.
    """
    from backend.io.labels import holds_labels

    if data.dtype.kind in "bui":
        return data
    return data.astype(np.int32) if holds_labels(data) and data.max() < 2**31 else None


def contrast_limits(data: npt.NDArray[Any]) -> tuple[float, float]:
    """The soft-tissue window of a CT (known by its air), else all but the darkest and brightest of the voxels."""
    sample = data[tuple(slice(None, None, max(1, n // 64)) for n in data.shape)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    if sample.min() <= AIR_HU:
        return SOFT_TISSUE_HU
    low, high = np.percentile(sample, (1, 99.5)).tolist()
    return (low, high) if high > low else (low, low + max(1.0, 1e-6 * abs(low)))
