"""Layers and volumes: where a voxel is in the one, it is in the other."""

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from napari.utils.camera_orientations import Handedness

from backend import geometry
from backend.errors import ErrorCode, SamMed3DError
from backend.volume import Volume
from napari_samed3d.frames import METADATA_KEY, frame_of, layer_point, same_place, shown_layer, volume_index

RNG = np.random.default_rng(0)
RAS_TO_VIEWER = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])


def random_volume() -> Volume:
    """A small volume of random shape whose affine is any rotation, flip, permutation and spacing."""
    shape = RNG.integers(3, 9, 3)
    rotation, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * RNG.uniform(0.3, 5, 3)
    affine[:3, 3] = RNG.uniform(-200, 200, 3)
    return Volume(np.arange(shape.prod(), dtype=np.int32).reshape(shape), affine)


def test_our_reader_keeps_affine_and_voxels_exactly() -> None:
    for _ in range(50):
        volume = random_volume()
        data, kwargs = shown_layer(volume, volume.array)
        layer = Image(data, **kwargs)
        frame = frame_of(layer)
        assert np.array_equal(frame.volume.affine, volume.affine)
        assert np.array_equal(frame.volume.array[:, :, :], volume.array)
        index = RNG.integers(0, volume.shape)
        assert layer.data[tuple(frame.order.to_viewer(index).astype(int))] == volume.array[tuple(index)]


def test_a_moved_layer_is_where_it_was_moved_to() -> None:
    data, kwargs = shown_layer(
        Volume(np.zeros((4, 5, 6), dtype=np.uint8), np.diag([-1.0, -1, -2, 1])), np.zeros((4, 5, 6))
    )
    layer = Image(data, **kwargs)
    layer.scale = (4, 1, 1)
    assert frame_of(layer).volume.spacing == (1, 1, 4)


def test_a_little_of_a_small_voxel_is_much() -> None:
    volume = Volume(np.zeros((4, 5, 6), dtype=np.uint8), np.diag([-2e-4, -2e-4, -2e-4, 1]))
    data, kwargs = shown_layer(volume, volume.array)
    layer = Image(data, **kwargs)
    layer.scale = (2.9e-4, 2e-4, 2e-4)
    assert frame_of(layer).volume.spacing == pytest.approx((2e-4, 2e-4, 2.9e-4))


@pytest.mark.parametrize("case", range(200))
def test_clicks_go_through_the_world(case: int) -> None:
    """A point layer and an image layer with unrelated transforms: the same spot of the world, exactly."""
    rng = np.random.default_rng(case)

    def transform() -> dict[str, object]:
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
        affine[:3, 3] = rng.normal(size=3) * 50
        rotate, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        return {
            "scale": rng.uniform(0.2, 4, 3),
            "translate": rng.normal(size=3) * 100,
            "rotate": rotate,
            "affine": affine,
        }

    image = Image(np.zeros((7, 8, 9), dtype=np.uint8), units=("mm",) * 3, **transform())
    points = Points(np.empty((0, 3)), units=("mm",) * 3, **transform())
    frame = frame_of(image)
    voxel = rng.integers(0, frame.volume.shape)
    world = image.data_to_world(voxel[::-1])
    row = np.asarray(points.world_to_data(world))
    assert np.allclose(volume_index(image, frame, points, row), voxel, atol=1e-3)
    assert np.allclose(layer_point(image, frame, points, voxel), row, atol=1e-3)
    # The volume's mm are the world's, its axes reversed and turned to RAS+.
    mm = frame.volume.affine @ [*voxel, 1]
    assert np.allclose(RAS_TO_VIEWER @ mm, [*world, 1], atol=1e-3)


def test_the_body_is_not_mirrored_in_3d() -> None:
    """napari shows (z, y, x) as right-handed in 3D; RAS+ is right-handed; so the way between must not mirror."""
    assert ViewerModel().scene.camera.handedness == Handedness.RIGHT
    assert np.linalg.det(geometry.RAS_TO_VIEWER) == pytest.approx(1)


def test_units_are_converted_to_mm() -> None:
    layer = Image(np.zeros((3, 4, 5), dtype=np.uint8), scale=(500, 250, 250), units=("micrometer",) * 3)
    assert np.allclose(frame_of(layer).volume.spacing, (0.25, 0.25, 0.5))


def test_lazy_and_multiscale_layers_are_read_by_window() -> None:
    full = np.arange(8 * 10 * 12, dtype=np.int16).reshape(8, 10, 12)
    for layer in (
        Image(da.from_array(full, chunks=4), multiscale=False),
        Image([da.from_array(full, chunks=4), da.from_array(full[::2, ::2, ::2], chunks=4)], multiscale=True),
    ):
        volume = frame_of(layer).volume
        assert volume.shape == (12, 10, 8)
        assert np.array_equal(volume.array[2:5, 0:3, 1:7], full.transpose()[2:5, 0:3, 1:7])


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (Image(np.zeros((4, 5), dtype=np.uint8)), ErrorCode.VOLUME_DIMENSIONS),
        (Image(np.zeros((2, 4, 5, 6), dtype=np.uint8)), ErrorCode.VOLUME_DIMENSIONS),
        (Image(np.zeros((4, 5, 6, 3), dtype=np.uint8), rgb=True), ErrorCode.VOLUME_DTYPE),
    ],
)
def test_what_is_not_a_volume_is_refused(layer: Image, code: ErrorCode) -> None:
    with pytest.raises(SamMed3DError) as error:
        frame_of(layer)
    assert error.value.code == code
    assert repr(layer.name) in str(error.value)


def test_same_place_puts_a_layer_on_the_same_voxels() -> None:
    image = Image(np.zeros((3, 4, 5), dtype=np.uint8), scale=(3, 2, 1), rotate=30, translate=(5, 6, 7))
    labels = Labels(np.zeros((3, 4, 5), dtype=np.uint8), **same_place(image))
    assert np.allclose(labels.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3)))
    assert METADATA_KEY not in labels.metadata
