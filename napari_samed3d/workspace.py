"""One image in the window: its objects, the layers that show them, and the clicks read from Points layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels, Points

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside
from backend.inference.objects import LabelMap
from backend.inference.prompts import Click, InitialMask, Prompt, Prompts, positive_first
from napari_samed3d.frames import METADATA_KEY, Frame, frame_of, layer_point, same_place, volume_index, voxels_of
from napari_samed3d.picking import first_voxel_above

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Layer

    from napari_samed3d.mouse import Ray

# By which attribute of the objects' layer the next widget finds its workspace; copies of the layer have none.
LEFT = "_samed3d_workspace"
POSITIVE, NEGATIVE = True, False
COLOURS = {POSITIVE: "#2ecc40", NEGATIVE: "#ff4136"}
NAMES = {POSITIVE: "positive clicks", NEGATIVE: "negative clicks"}
POINT_SIZE_MM, POINT_SHARE = 5.0, 0.04
# What says where a layer is, by the names of napari's attributes and events.
PLACE = ("scale", "translate", "rotate", "shear", "affine", "units")

Row = tuple[float, ...]


@dataclass(eq=False)
class Workspace:
    """One image, its objects, and the layers that show them."""

    image: Image
    frame: Frame
    objects: LabelMap
    labels: Labels
    points: dict[bool, Points]
    threshold: float  # in the 3D view a voxel above it stops a ray
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
        labels.preserve_labels = True  # a brush, too, changes the open object alone
        points = {kind: points_layer(image, kind) for kind in (NEGATIVE, POSITIVE)}
        workspace = cls(image, frame, objects, labels, points, threshold=float(np.mean(image.contrast_limits)))
        setattr(labels, LEFT, workspace)
        return workspace

    @classmethod
    def left_in(cls, layers: Iterable[Layer], image: Image) -> Workspace | None:
        """The workspace of an image that an earlier widget left, if its objects are still there."""
        for layer in layers:
            left = getattr(layer, LEFT, None)
            if isinstance(left, cls) and left.labels is layer and left.shows(image):
                left.keep_array()
                left.objects.painted = True  # perhaps, while nobody looked
                left.objects.adopt(left.objects.array)
                return left
        return None

    def release(self) -> None:
        """End it: its objects' layer stays, and keeps neither the image nor the clicks in memory."""
        vars(self.labels).pop(LEFT, None)

    def shows(self, image: Image) -> bool:
        """Whether its objects are those of an image, which has the same voxels as when they were made."""
        return self.image is image and getattr(self.frame.volume.array, "shown", None) is voxels_of(image)

    def out_of_place(self) -> bool:
        """Whether the image was moved, or given another voxel size, since its place was taken over."""
        affine = frame_of(self.image, self.frame.order).volume.affine
        return not np.allclose(affine, self.frame.volume.affine, rtol=1e-9, atol=0)

    def keep_array(self) -> None:
        """Have the layer show the objects' own array again where somebody gave it another (napari, of another type).

        One of the same shape is taken over.
        """
        shown = self.frame.order.show(self.objects.array)
        given = np.asarray(self.labels.data)
        if all(
            given.__array_interface__[key] == shown.__array_interface__[key] for key in ("data", "strides", "shape")
        ):
            return
        if given.shape == shown.shape:
            shown[...] = np.clip(given, 0, np.iinfo(shown.dtype).max)
            self.objects.painted = True
            self.objects.adopt(self.objects.array)
        self.labels.data = shown

    def forget_strokes(self) -> None:
        """Have napari's undo and redo bring back no voxels of before: they may be another object's by now."""
        mode = self.labels.mode
        self.labels.editable = False  # which forgets them, and ends the mode
        self.labels.editable = True
        self.labels.mode = mode

    def follow_image(self) -> None:
        """Take over the image's place. Its voxels are the same, so objects and clicks stay on theirs.

        Raises:
            SamMed3DError: there the image is no volume.
        """
        self.frame = frame_of(self.image, self.frame.order)
        for layer in self.layers[1:]:
            for name, value in same_place(self.image).items():
                setattr(layer, name, value)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of it, from the image upwards."""
        return (self.image, self.labels, *self.points.values())

    def read_clicks(self, ray: Ray | None) -> tuple[Prompts, list[SamMed3DError]]:
        """The prompts in their order: paint, and clicks known that are still there or were moved, then the new ones.

        Args:
            ray: of the mouse that made or moved points, if it was in the 3D view.

        Returns:
            The prompts, and what is refused: a new one is left out, a moved one stays where it was.
        """
        becomes: dict[Click, Click] = {}
        new: list[Click] = []
        refused: list[SamMed3DError] = []
        for kind, layer in self.points.items():
            known, rows = self.known[kind], [tuple(row) for row in layer.data.tolist()]
            becomes |= {click: click for row, click in known.items() if row in rows}
            moved = {b: a for a, b in zip(known, rows, strict=True) if b != a} if len(known) == len(rows) else {}
            becomes |= {known[row]: known[row] for row in moved.values()}
            others = [row for row in rows if row not in known]
            if ray is not None and len(others) > 1:
                refused.append(_several())
                continue
            for row in others:
                try:
                    click = self._new_click(kind, row, ray)
                except SamMed3DError as error:
                    refused.append(error)
                    continue
                if row in moved:
                    becomes[known[moved[row]]] = click
                elif click not in (*becomes.values(), *new):
                    new.append(click)
        return _in_order(self.objects.history.prompts, becomes, new), refused

    def _new_click(self, kind: bool, row: Row, ray: Ray | None) -> Click:
        if ray is None:
            index = volume_index(self.image, self.frame, self.points[kind], row)
        else:
            hit = first_voxel_above(self.image, ray.position, ray.direction, ray.dims_displayed, self.threshold)
            if hit is None:
                raise SamMed3DError(
                    ErrorCode.PROMPT_INVALID,
                    f"Nothing above {self.threshold:g} lies under this click.",
                    "Click on the image, or lower the threshold for 3D clicks.",
                )
            index = self.frame.order.to_volume(hit)
        try:
            x, y, z = check_inside(self.frame.volume, index).tolist()
        except SamMed3DError as error:
            raise SamMed3DError(ErrorCode.PROMPT_INVALID, error.problem, "Click on the image.") from error
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


def _several() -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.PROMPT_INVALID,
        "Several clicks came or moved at once in the 3D view, where the mouse says of one only how deep it is.",
        "Move one at a time, or move them in the 2D view.",
    )


def _in_order(before: Prompts, becomes: dict[Click, Click], new: list[Click]) -> Prompts:
    """Clicks in the place of those they become, then the new ones; one that is moved comes after any paint."""
    paint = max((n for n, prompt in enumerate(before) if isinstance(prompt, InitialMask)), default=-1)
    kept: list[Prompt] = []
    moved: list[Prompt] = []
    for number, prompt in enumerate(before):
        if not isinstance(prompt, Click):
            kept.append(prompt)
        elif prompt in becomes:
            (moved if number < paint and becomes[prompt] != prompt else kept).append(becomes[prompt])
    return positive_first([*kept, *moved, *new])  # also after the first one was deleted


def _point_size(image: Image) -> float:
    """In the layer's own units: 5 mm, less in a small image."""
    volume = frame_of(image).volume
    extent = float(np.max(np.multiply(volume.shape, volume.spacing)))
    return min(POINT_SIZE_MM, POINT_SHARE * extent) / float(np.min(volume.spacing))


def points_layer(image: Image, kind: bool) -> Points:
    """An empty layer for clicks of one kind on an image."""
    return Points(
        np.empty((0, 3)),
        name=f"{image.name} {NAMES[kind]}",
        face_color=COLOURS[kind],
        border_color="white",
        size=_point_size(image),
        projection_mode="rescale_spherical",
        **same_place(image),
    )
