"""Between napari layers and volumes: the one place that knows both."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import DisplayOrder, ShownArray, display_order, plain_order
from backend.volume import Affine, Source, Volume

METADATA_KEY = "samed3d"
AXIS_LABELS = ("z", "y", "x")


@dataclass(frozen=True, eq=False)
class Placement:
    """What our reader knows of a layer that napari has no place for; kept in the layer's metadata.

    Args:
        affine: the file's exact affine, which napari, unable to slice oblique volumes, does not show.
        order: how the file's axes were permuted and flipped for display.
        source: the file.
        transform: the layer's 4x4 data-to-world matrix as it was made; while it is still that, `affine` holds.
    """

    affine: Affine
    order: DisplayOrder
    source: Source
    transform: Affine


@dataclass(frozen=True, eq=False)
class Frame:
    """A layer's voxels as a volume, and the order in which the layer shows them."""

    volume: Volume
    order: DisplayOrder


def is_volume(layer: Image) -> bool:
    """Whether a layer can be segmented, see `frame_of`."""
    try:
        frame_of(layer)
    except SamMed3DError:
        return False
    return True


def frame_of(layer: Image | Labels, order: DisplayOrder | None = None) -> Frame:
    """The volume that an image or labels layer shows; no voxel is read yet.

    Where our reader placed the layer and nobody turned it since, with the file's exact affine, also where the layer is
    a crop of it. Else by the layer's own transform, its world taken as (Inferior, Posterior, Left) in its units, or mm
    if it has none.

    Args:
        layer: with three axes.
        order: in which the layer is known to show the volume, if it was one before.

    Raises:
        SamMed3DError: the layer shows colours or has not three axes.
    """
    if isinstance(layer, Image) and layer.rgb:
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"The layer {layer.name!r} shows colours (RGB), not one intensity a voxel.",
            "Split its channels (layer menu, 'Split RGB') and choose one of them.",
        )
    data = voxels_of(layer)
    if len(data.shape) != 3:
        flat = len(data.shape) < 3
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"The layer {layer.name!r} has {len(data.shape)} axes, not three: shape {tuple(data.shape)}.",
            "Open all slices as one volume." if flat else "Choose one frame of it (layer menu, 'Split Stack').",
        )
    transform = layer_transform(layer)
    placement = layer.metadata.get(METADATA_KEY)
    if isinstance(placement, Placement):
        if order in (None, placement.order) and _still_placed(placement, transform, data.shape):
            volume = Volume(ShownArray(data, placement.order), placement.affine, placement.source)
            return Frame(volume, placement.order)
        transform = _exact(placement, transform)
    order = order or plain_order(data.shape)
    return Frame(Volume(ShownArray(data, order), order.volume_affine(transform)), order)


def voxels_of(layer: Image | Labels) -> Any:
    """The array that a layer shows, of several the finest."""
    return layer.data[0] if layer.multiscale else layer.data


def _exact(placement: Placement, transform: Affine) -> Affine:
    """Where the file says that a crop, or a coarser version, of its volume is; a layer that was turned, as it is."""
    part = np.linalg.inv(placement.transform) @ transform
    step = np.diag(part)[:3]
    straight = (step > 0).all() and np.allclose(part[:3, :3], np.diag(step), rtol=0, atol=1e-5 * step.max())
    return placement.order.viewer_affine(placement.affine) @ part if straight else transform


def _still_placed(placement: Placement, transform: Affine, shape: tuple[int, ...]) -> bool:
    shown = tuple(placement.order.shape[axis] for axis in placement.order.axes)
    close = 1e-4 * float(np.linalg.norm(placement.transform[:3, :3], axis=0).min())
    return tuple(shape) == shown and np.allclose(placement.transform, transform, rtol=1e-5, atol=close)


def layer_transform(layer: Layer) -> Affine:
    """4x4 from a three-axis layer's data index to its world in mm."""
    origin = np.asarray(layer.data_to_world((0, 0, 0)))
    columns = [np.asarray(layer.data_to_world(step)) - origin for step in np.eye(3)]
    out = np.eye(4)
    out[:3, :3] = np.transpose(columns)
    out[:3, 3] = origin
    out[:3] *= np.array([_millimetres(unit) for unit in layer.units])[:, None]
    return out


def _millimetres(unit: Any) -> float:
    """How many mm a layer's unit is; a pixel, which says nothing, is taken as one."""
    quantity = 1 * unit
    return float(quantity.to("mm").magnitude) if quantity.check("[length]") else 1.0


def lengths_of(layers: Iterable[Layer]) -> set[str]:
    """The units of length that layers are in; with several napari 0.9 does not say rightly where the mouse is."""
    return {str(unit) for layer in layers for unit in layer.units if (1 * unit).check("[length]")}


def shown_layer(volume: Volume, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """An array on a volume's grid as a layer's data and keyword arguments: upright, axis-aligned, in mm."""
    order = display_order(volume)
    exact = order.viewer_affine(volume.affine)
    scale, translate = np.linalg.norm(exact[:3, :3], axis=0), exact[:3, 3]
    transform = np.diag([*scale, 1.0])
    transform[:3, 3] = translate
    kwargs = {
        "scale": scale,
        "translate": translate,
        "units": ("mm",) * 3,
        "axis_labels": AXIS_LABELS,
        "metadata": {METADATA_KEY: Placement(volume.affine, order, volume.source, transform)},
    }
    return order.show(array), kwargs


def same_place(layer: Layer) -> dict[str, Any]:
    """Keyword arguments that put a new layer on the grid of another with three axes."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def volume_index(image: Image, frame: Frame, layer: Layer, point: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The frame's volume index (x, y, z) of a point in another layer's data, by way of the world."""
    return frame.order.to_volume(image.world_to_data(layer.data_to_world(point)))


def layer_point(image: Image, frame: Frame, layer: Layer, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The inverse of `volume_index`."""
    return np.asarray(layer.world_to_data(image.data_to_world(frame.order.to_viewer(index))))
