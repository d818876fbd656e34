"""The endless source: the same for the same key, whatever reads it, and always with an object to click on."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from backend.data.sample import Key
from backend.data.synthetic import generator
from backend.data.synthetic.chance import Chance
from backend.data.synthetic.dataset import SyntheticDataset
from backend.data.synthetic.generator import LARGEST_SHARE, LEAST_SHARE, generate
from backend.data.synthetic.label_maps import LabelMap
from backend.data.synthetic.looks import PAINTERS, Seen, paint
from backend.data.synthetic.shapes import scene
from backend.errors import ErrorCode, SamMed3DError

SIZE = 24


@pytest.fixture(scope="module")
def pairs():
    return [generate(seed, SIZE, torch.device("cpu")) for seed in range(60)]


def test_every_volume_holds_one_connected_object_of_sensible_size(pairs):
    for image, mask, _ in pairs:
        assert image.shape == mask.shape == (SIZE, SIZE, SIZE)
        assert image.isfinite().all()
        assert LEAST_SHARE <= mask.float().mean() <= LARGEST_SHARE
        assert ndimage.label(mask.numpy())[1] == 1


def test_all_modalities_come_up_with_values_of_their_kind(pairs):
    looks = {look for *_, look in pairs}
    assert looks == set(PAINTERS)
    for image, _, look in pairs:
        if look == "CT":
            assert -1024 <= image.min() <= image.max() <= 3000
        else:
            assert image.min() >= 0


def test_objects_can_be_seen(pairs):
    """Inside and just outside differ by more than the spread inside, in most volumes."""
    apart = 0
    for image, mask, _ in pairs:
        ring = ndimage.binary_dilation(mask.numpy(), iterations=2) & ~mask.numpy()
        inside, outside = image[mask], image[torch.from_numpy(ring)]
        apart += bool((inside.mean() - outside.mean()).abs() > inside.std())
    assert apart > 36


def test_masks_are_of_many_sizes(pairs):
    volumes = sorted(int(mask.sum()) for _, mask, _ in pairs)
    assert volumes[len(volumes) * 9 // 10] > 8 * volumes[len(volumes) // 10]


@pytest.mark.parametrize("look", ["CT", "MR", "US"])
def test_a_neighbour_may_look_the_same_but_what_is_around_does_not(look):
    """Else a negative click into it would take the object along: no contrast says where it ends."""
    labels = torch.ones(SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[8:16, 8:16, 8:16], labels[8:16, 8:16, 16:] = 3, 2
    alike, apart = 0, 0
    for seed in range(60):
        image = paint(Seen(labels, labels == 3, 3), look, Chance(seed, torch.device("cpu")))
        inside, outside = image[9:15, 9:15, 9:15], image[:6]
        contrast = (inside.mean() - outside.mean()).abs()
        apart += bool(contrast > inside.std() / 4)
        alike += bool((inside.mean() - image[9:15, 9:15, 17:23].mean()).abs() < contrast / 3)
    assert apart > 45
    assert 18 < alike < 40  # by chance alone it is 17 at most


@pytest.mark.parametrize("look", ["CT", "MR", "US"])
def test_a_rim_differs_from_what_is_around_the_object_whatever_is_in_it(look):
    labels = torch.ones(SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[4:20, 4:20, 4:20], labels[7:17, 7:17, 7:17] = 3, 2  # a rim around a core
    apart = 0
    for seed in range(60):
        image = paint(Seen(labels, labels > 1, 3), look, Chance(seed, torch.device("cpu")))
        rim, outside = image[5:6, 5:19, 5:19], image[:3]
        apart += bool((rim.mean() - outside.mean()).abs() > (rim.std() + outside.std()) / 4)
    assert apart > 50


def test_what_takes_up_most_is_the_object_and_not_another_label():
    """The object has 100 here, others 10 at most."""

    class Hot(Chance):
        def log_uniform(self, low, high):
            return 100.0 if (low, high) == (2, 15) else super().log_uniform(low, high)

    labels = torch.full((SIZE, SIZE, SIZE), 2, dtype=torch.uint8)
    labels[4:14, 4:20, 4:20], labels[18:, :, :] = 1, 3
    for seed in range(30):
        image = paint(Seen(labels, labels == 1, 1), "PET", Hot(seed, torch.device("cpu")))
        assert image[6:12, 6:18, 6:18].mean() > 3 * image[20:, 2:-2, 2:-2].mean()


def test_a_sample_depends_on_its_key_alone():
    data = SyntheticDataset(SIZE, 100, seed=3)
    first = data[Key(2, 5)]
    again = SyntheticDataset(SIZE, 7, seed=3)[Key(2, 5)]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert first.image.shape == first.mask.shape == (1, SIZE, SIZE, SIZE)
    assert first.mask.dtype == torch.bool
    for key in (Key(2, 6), Key(3, 5)):
        assert not torch.equal(first.image, data[key].image)
    assert not torch.equal(first.image, SyntheticDataset(SIZE, 100, seed=4)[Key(2, 5)].image)


def test_the_first_epochs_may_have_smaller_crops():
    data = SyntheticDataset(SIZE, 100, seed=3, start=(2, 16))
    assert [data[Key(epoch, 0)].image.shape[-1] for epoch in range(4)] == [16, 16, SIZE, SIZE]


@pytest.mark.parametrize(("size", "start"), [(25, 16), (24, 17)])
def test_odd_crops_are_refused(size, start):
    with pytest.raises(SamMed3DError, match="even") as caught:
        SyntheticDataset(size, 100, seed=3, start=(2, start))
    assert caught.value.code == ErrorCode.CONFIG_INVALID


def test_worker_processes_give_the_same_samples():
    data = SyntheticDataset(SIZE, 4, seed=0)
    keys = [Key(0, index) for index in range(4)]
    loader = DataLoader(data, batch_sampler=[keys[:2], keys[2:]], num_workers=1)
    read = torch.cat([batch.image for batch in loader])
    assert torch.equal(read, torch.stack([data[key].image for key in keys]))


def test_samples_are_normalised_without_a_warning():
    data = SyntheticDataset(SIZE, 100, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = torch.stack([data[Key(0, index)].image for index in range(20)])
    assert images.isfinite().all()
    assert images.abs().median() < 5


@pytest.fixture
def label_file(tmp_path):
    labels = np.zeros((30, 40, 20), dtype=np.int16)
    labels[5:20, 8:30, 4:15] = 100
    labels[12:16, 15:22, 6:10] = 2000
    path = tmp_path / "map.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, 1, 2, 1])), path)
    return path


def test_about_half_of_the_shapes_come_from_given_label_maps(label_file, monkeypatch):
    scenes, taken = [], []
    placed = LabelMap.placed
    monkeypatch.setattr(LabelMap, "placed", lambda *args: taken.append(1) or placed(*args))
    monkeypatch.setattr(generator, "scene", lambda *args: scenes.append(1) or scene(*args))
    data = SyntheticDataset(SIZE, 100, 0, [label_file.parent])
    for index in range(16):
        assert data[Key(0, index)].mask.any()
    assert 0.2 < len(taken) / len(scenes) < 0.8
