"""One image in the window: its objects, the layers that show them, and the clicks read from Points layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Points

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside
from backend.inference.objects import LabelMap
from backend.inference.prompts import Click
from napari_samed3d.frames import METADATA_KEY, Frame, frame_of, layer_point, same_place, volume_index
from napari_samed3d.picking import first_voxel_above

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Layer

WORKSPACE_KEY = "samed3d-workspace"
POSITIVE, NEGATIVE = True, False
COLOURS = {POSITIVE: "#2ecc40", NEGATIVE: "#ff4136"}
NAMES = {POSITIVE: "positive clicks", NEGATIVE: "negative clicks"}
POINT_SIZE_MM = 5.0

Row = tuple[float, ...]


@dataclass(frozen=True)
class Ray:
    """A mouse press in the 3D view, in the world: where, along which direction, with which axes on the screen."""

    position: Any
    direction: Any
    dims_displayed: list[int]


@dataclass(eq=False)
class Workspace:
    """One image, its objects, and the layers that show them."""

    image: Image
    frame: Frame
    objects: LabelMap
    labels: Labels
    points: dict[bool, Points]
    # The points that are prompts already, by their row in the layer's data.
    known: dict[bool, dict[Row, Click]] = field(default_factory=lambda: {POSITIVE: {}, NEGATIVE: {}})

    @classmethod
    def of(cls, image: Image) -> Workspace:
        """The workspace of an image, its layers not yet in a viewer.

        Raises:
            SamMed3DError: the layer is not a volume.
        """
        frame = frame_of(image)
        objects = LabelMap(frame.volume.shape)
        labels = Labels(
            frame.order.show(objects.array),
            name=f"{image.name} objects",
            opacity=0.5,
            metadata={key: value for key, value in image.metadata.items() if key == METADATA_KEY},
            **same_place(image),
        )
        points = {kind: points_layer(image, kind) for kind in (NEGATIVE, POSITIVE)}
        workspace = cls(image, frame, objects, labels, points)
        labels.metadata[WORKSPACE_KEY] = workspace  # where the next widget finds it, if this one is closed
        return workspace

    @classmethod
    def left_in(cls, layers: Iterable[Layer], image: Image) -> Workspace | None:
        """The workspace of an image whose layers an earlier widget left, if they are all still there."""
        present = list(layers)
        for layer in present:
            left = layer.metadata.get(WORKSPACE_KEY)
            if isinstance(left, cls) and left.labels is layer and left.image is image:
                return left if all(other in present for other in left.layers) else None
        return None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of it, from the image upwards."""
        return (self.image, self.labels, *self.points.values())

    def read_clicks(self, ray: Ray | None, threshold: float) -> tuple[tuple[Click, ...], list[SamMed3DError]]:
        """The clicks in their order: those known that are still there, then the new ones; and what is refused.

        Args:
            ray: of the press that made the new points, if it was in the 3D view.
            threshold: above this a voxel stops the ray.
        """
        rows = {kind: [tuple(row) for row in layer.data.tolist()] for kind, layer in self.points.items()}
        kept = {c for kind, known in self.known.items() for row, c in known.items() if row in rows[kind]}
        clicks, refused = [c for c in self.objects.history.prompts if c in kept], []
        for kind in self.points:
            for row in (r for r in rows[kind] if r not in self.known[kind]):
                try:
                    clicks.append(self._new_click(kind, row, ray, threshold))
                except SamMed3DError as error:  # this click is refused, the others stay
                    refused.append(error)
        return tuple(clicks), refused

    def _new_click(self, kind: bool, row: Row, ray: Ray | None, threshold: float) -> Click:
        if ray is None:
            index = volume_index(self.image, self.frame, self.points[kind], row)
        else:
            hit = first_voxel_above(self.image, ray.position, ray.direction, ray.dims_displayed, threshold)
            if hit is None:
                raise SamMed3DError(
                    ErrorCode.PROMPT_INVALID,
                    f"Nothing above {threshold:g} lies under this click.",
                    "Click on the image, or lower the threshold for 3D clicks.",
                )
            index = self.frame.order.to_volume(hit)
        x, y, z = check_inside(self.frame.volume, index).tolist()
        return Click((x, y, z), kind)

    def show_clicks(self) -> None:
        """Make the Points layers show the prompts of the open object, no more and no less."""
        for kind, layer in self.points.items():
            clicks = [p for p in self.objects.history.prompts if isinstance(p, Click) and p.positive is kind]
            rows = [layer_point(self.image, self.frame, layer, c.point) for c in clicks]
            if layer.data.tolist() != [row.tolist() for row in rows]:
                layer.data = np.reshape(rows, (-1, 3))
            shown = [tuple(row) for row in layer.data.tolist()]
            self.known[kind] = dict(zip(shown, clicks, strict=True))


def points_layer(image: Image, kind: bool) -> Points:
    """An empty layer for clicks of one kind on an image."""
    return Points(
        np.empty((0, 3)),
        name=f"{image.name} {NAMES[kind]}",
        face_color=COLOURS[kind],
        border_color="white",
        size=POINT_SIZE_MM / float(np.abs(image.scale).min()),
        projection_mode="rescale_spherical",
        **same_place(image),
    )
