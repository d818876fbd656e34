import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from test_index import entry
from torch.utils.data import default_collate

from backend.data.dataset import IndexDataset
from backend.data.index import IndexEntry
from backend.data.resize import resize_pair
from backend.data.sample import Key, Sample
from backend.data.store import write_array
from backend.errors import ErrorCode, SamMed3DError
from backend.inference.preprocess import normalise

SIZE = 32


def stored(folder: Path, name: str, mask: npt.NDArray[np.bool_], **changes: Any) -> IndexEntry:
    """An entry, whose image tells where each of its voxels lies: brighter along x, y and z."""
    shape = mask.shape
    image = (1 + np.arange(mask.size).reshape(shape)).astype(np.float32)
    (folder / "images").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    write_array(folder / "images" / f"{name}.b2nd", image)
    write_array(folder / "masks" / f"{name}.b2nd", mask.astype(np.uint8))
    found = np.argwhere(mask)
    box = (tuple(found.min(0).tolist()), tuple(found.max(0).tolist()))
    return entry(name, image=f"images/{name}.b2nd", shape=shape, box=box, **changes)


def mask_of(shape: tuple[int, int, int], *parts: tuple[slice, slice, slice]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=np.bool_)
    for part in parts:
        mask[part] = True
    return mask


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_window_around_the_object_with_zeros_outside(tmp_path: Path) -> None:
    mask = mask_of((40, 20, 30), (slice(30, 39), slice(3, 9), slice(10, 21)))
    data = IndexDataset(tmp_path, [stored(tmp_path, "a", mask)], SIZE, seed=0)
    sample = data[Key(0, 0)]
    assert sample.image.shape == sample.mask.shape == (1, SIZE, SIZE, SIZE)
    assert (sample.image.dtype, sample.mask.dtype, sample.key.dtype) == (torch.float32, torch.bool, torch.int64)
    image = (1 + np.arange(mask.size).reshape(mask.shape)).astype(np.float32)
    x, y, z = 30 + 9 // 2, 3 + 6 // 2, 10 + 11 // 2  # the box's middle comes to the crop's
    padded = np.pad(image, SIZE)[x + 16 : x + 48, y + 16 : y + 48, z + 16 : z + 48]
    np.testing.assert_array_equal(sample.image[0], normalise(padded))
    np.testing.assert_array_equal(sample.mask[0], np.pad(mask, SIZE)[x + 16 : x + 48, y + 16 : y + 48, z + 16 : z + 48])


def test_a_sample_depends_on_nothing_but_its_key(tmp_path: Path) -> None:
    entries = [
        stored(tmp_path, name, mask_of((50, 40, 30), (slice(n, n + 9), slice(3, 9), slice(4, 10))))
        for n, name in enumerate("abc")
    ]
    data = IndexDataset(tmp_path, entries, SIZE, seed=5, jitter=6, flips=True)
    first = {key: data[key] for key in (Key(epoch, index) for epoch in range(3) for index in range(3))}
    again = pickle.loads(pickle.dumps(data))
    assert all(same(again[key], sample) for key, sample in reversed(first.items()))
    crops = [sample.image for sample in first.values()]
    assert not any(torch.equal(a, b) for n, a in enumerate(crops) for b in crops[:n])
    assert len({int(sample.key) for sample in first.values()}) == 9
    other = IndexDataset(tmp_path, entries, SIZE, seed=6, jitter=6, flips=True)
    assert not same(other[Key(0, 0)], first[Key(0, 0)])
    assert default_collate([first[Key(0, 0)], first[Key(0, 1)]]).image.shape == (2, 1, SIZE, SIZE, SIZE)


def test_jitter_moves_the_window_and_never_cuts_an_object_that_fits(tmp_path: Path) -> None:
    mask = mask_of((60, 60, 60), (slice(20, 29), slice(20, 50), slice(20, 52)))  # 9, 30 and all 32 voxels
    data = IndexDataset(tmp_path, [stored(tmp_path, "a", mask)], SIZE, seed=0, jitter=8)
    corners = set()
    for epoch in range(150):
        shown = data[Key(epoch, 0)].mask[0].numpy()
        assert shown.sum() == mask.sum()
        corners.add(tuple(np.argwhere(shown).min(0).tolist()))
    along = [{corner[axis] for corner in corners} for axis in range(3)]
    assert along == [set(range(12 - 8, 12 + 9)), {0, 1, 2}, {0}]


def test_of_a_large_object_there_is_always_something(tmp_path: Path) -> None:
    """Two far corners of a large box: a window by its middle, or by chance, would mostly hold nothing."""
    corner = slice(0, 3)
    mask = mask_of((100, 90, 80), (corner, corner, corner), (slice(97, 100), slice(87, 90), slice(77, 80)))
    data = IndexDataset(tmp_path, [stored(tmp_path, "a", mask)], SIZE, seed=0, jitter=15, flips=True)
    shown = [data[Key(epoch, 0)] for epoch in range(60)]
    assert all(sample.mask.any() for sample in shown)
    brightest = [int(sample.image[0][sample.mask[0]].argmax()) for sample in shown]
    assert len(set(brightest)) > 1


def test_flips_mirror_image_and_mask_alike(tmp_path: Path) -> None:
    mask = mask_of((32, 32, 32), (slice(2, 5), slice(4, 9), slice(1, 30)))
    item = stored(tmp_path, "a", mask)
    plain = IndexDataset(tmp_path, [item], SIZE, seed=0, crop="resize")[Key(0, 0)]
    data = IndexDataset(tmp_path, [item], SIZE, seed=0, crop="resize", flips=True)
    seen = set()
    for epoch in range(60):
        sample = data[Key(epoch, 0)]
        axes = next(
            axes
            for axes in (tuple(axis for axis, on in enumerate(which, 1) if on) for which in product((0, 1), repeat=3))
            if torch.equal(sample.image, plain.image.flip(axes))
        )
        assert torch.equal(sample.mask, plain.mask.flip(axes))
        seen.add(axes)
    assert len(seen) == 8


@pytest.mark.parametrize("count", [3, 10, 25])
def test_an_epoch_is_a_random_part_or_several_rounds(tmp_path: Path, count: int) -> None:
    entries = [
        stored(tmp_path, f"e{n}", mask_of((9, 9, 9 + n), (slice(2, 5), slice(2, 5), slice(2, 5)))) for n in range(10)
    ]
    data = IndexDataset(tmp_path, entries, 16, seed=0, samples_per_epoch=count)
    assert len(data) == count
    extents = {
        float(IndexDataset(tmp_path, [item], 16, seed=0)[Key(0, 0)].image.max()): n for n, item in enumerate(entries)
    }
    epochs = [[extents[float(data[Key(epoch, index)].image.max())] for index in range(count)] for epoch in range(3)]
    for epoch in epochs:
        times = np.bincount(epoch, minlength=10)
        assert times.max() - times.min() <= 1
    assert epochs[0] != epochs[1] != epochs[2]


def test_resizing_pads_short_axes_and_shrinks_long_ones() -> None:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(0, 1, (48, 20, 16)), 2).astype(np.float32)
    mask = image > 0.05
    small, shown = resize_pair(image, mask, 24)
    tensor = torch.from_numpy(image)[None, None]
    expected = torch.nn.functional.interpolate(tensor, (24, 20, 16), mode="trilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(small[:, 2:22, 4:20], expected, atol=1e-6)
    assert not small[:, :2].any()
    assert not small[:, :, 20:].any()
    share = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), (24, 20, 16), mode="trilinear")
    np.testing.assert_array_equal(shown[:, 2:22, 4:20], share[0, 0] >= 0.5)


def test_resizing_never_loses_an_object() -> None:
    mask = np.zeros((100, 8, 90), dtype=np.bool_)
    mask[33, 5, 88] = True
    _, shown = resize_pair(mask.astype(np.float32), mask, 16)
    assert np.argwhere(shown).tolist() == [[33 * 16 // 100, 5 + 4, 88 * 16 // 90]]


def test_an_all_air_crop_is_finite_and_quiet(tmp_path: Path) -> None:
    mask = mask_of((9, 9, 9), (slice(2, 5), slice(2, 5), slice(2, 5)))
    item = stored(tmp_path, "a", mask)
    write_array(tmp_path / item.image, np.full((9, 9, 9), np.nan, dtype=np.float32))
    assert torch.isfinite(IndexDataset(tmp_path, [item], 16, seed=0)[Key(0, 0)].image).all()


@pytest.mark.parametrize("crop", ["jitter", "resize"])
@pytest.mark.parametrize("spoilt", ["image", "mask"])
def test_a_damaged_file_is_named(tmp_path: Path, crop: Any, spoilt: str) -> None:
    mask = mask_of((20, 20, 20), (slice(2, 9), slice(2, 9), slice(2, 9)))
    item = stored(tmp_path, "a", mask)
    path = tmp_path / getattr(item, spoilt)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(SamMed3DError, match=str(path)) as caught:
        IndexDataset(tmp_path, [item], 16, seed=0, crop=crop)[Key(0, 0)]
    assert caught.value.code == ErrorCode.DATA_CORRUPT


@pytest.mark.parametrize("large", [True, False])
def test_a_mask_that_is_not_where_the_index_says_is_named(tmp_path: Path, large: bool) -> None:
    mask = mask_of((60, 20, 20), (slice(2, 50 if large else 9), slice(2, 9), slice(2, 9)))
    item = stored(tmp_path, "a", mask)
    write_array(tmp_path / item.mask, np.zeros((60, 20, 20), dtype=np.uint8))
    with pytest.raises(SamMed3DError, match="where the index says") as caught:
        IndexDataset(tmp_path, [item], 16, seed=0)[Key(0, 0)]
    assert caught.value.code == ErrorCode.DATA_CORRUPT


def test_impossible_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SamMed3DError, match="no mask") as caught:
        IndexDataset(tmp_path, [], 16, seed=0)
    assert caught.value.code == ErrorCode.DATA_INDEX
    with pytest.raises(SamMed3DError, match="jitter is 8") as caught:
        IndexDataset(tmp_path, [entry("a")], 16, seed=0, jitter=8)
    assert len(IndexDataset(tmp_path, [entry("a")], 16, seed=0, crop="resize", jitter=8)) == 1
    assert caught.value.code == ErrorCode.CONFIG_INVALID
