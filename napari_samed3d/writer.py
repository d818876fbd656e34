"""A Labels layer as a mask file, on the grid of the image that it was made from."""

from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write the labels in the axis order and with the affine of the image file (npe2 single-layer writer).

    A layer that our reader or widget did not place is written by its own scale, translate, rotate and affine.
    """
    from backend.io import write_mask
    from napari_samed3d.frames import frame_of

    known = ("name", "metadata", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    finest = data[0] if meta.get("multiscale") else data
    frame = frame_of(Labels(np.asarray(finest), **{key: meta[key] for key in known if key in meta}))
    write_mask(Path(path), np.asarray(frame.volume.array[:, :, :]), frame.volume)
    return [path]
