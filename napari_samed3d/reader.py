"""Medical volumes as image layers: upright, in mm, with the file's exact geometry kept for saving."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.volume import Volume

AIR_HU = -900
SOFT_TISSUE_HU = (-160.0, 240.0)
# A file of more frames is a time series, of which nobody wants every volume as a layer.
MOST_FRAMES = 8

LayerTuple = tuple[Any, dict[str, Any], str]
PathOrPaths = str | Sequence[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """The reader for a path, or None where it is not for us (npe2)."""
    from backend.io import READABLE_SUFFIXES

    paths = [path] if isinstance(path, str) else path
    readable = all(Path(p).is_dir() or p.lower().endswith(READABLE_SUFFIXES) for p in paths)
    return read_volumes if readable else None


def read_volumes(path: PathOrPaths) -> list[LayerTuple]:
    """One layer a path: an image, or labels where the file says so; of a file of a few frames, one for each.

    Raises:
        SamMed3DError: the file is not a volume; napari shows what to do.
    """
    return [layer for p in ([path] if isinstance(path, str) else path) for layer in _layers(p)]


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
    if is_label_map(volume):
        return data, {"name": name, **kwargs}, "labels"
    return data, {"name": name, "contrast_limits": contrast_limits(data), **kwargs}, "image"


def is_label_map(volume: Volume) -> bool:
    """Whether the file says that its voxels are labels, as our masks in NIfTI do."""
    header = volume.source.header
    return volume.source.format == "nifti" and header is not None and header.get_intent()[0] == "label"


def contrast_limits(data: npt.NDArray[Any]) -> tuple[float, float]:
    """The soft-tissue window of a CT (known by its air), else all but the darkest and brightest of the voxels."""
    sample = data[tuple(slice(None, None, max(1, n // 64)) for n in data.shape)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    if sample.min() <= AIR_HU:
        return SOFT_TISSUE_HU
    low, high = np.percentile(sample, (1, 99.5)).tolist()
    return (low, high) if high > low else (low, low + 1)
