"""Lesions, rims and gaps: each is there, and where it should be."""

import pytest
import torch
from scipy import ndimage

from backend.data.synthetic import shapes
from backend.data.synthetic.chance import Chance
from backend.data.synthetic.shapes import add_gap, add_lesions, add_parts

SIZE = 24
CPU = torch.device("cpu")


@pytest.fixture
def lesions(monkeypatch):
    """A list that becomes as long as there are lesions drawn."""
    drawn, lump = [], shapes._lump
    monkeypatch.setattr(shapes, "_lump", lambda *args: drawn.append(1) or lump(*args))
    return drawn


def test_lesions_lie_where_their_host_is(lesions):
    labels = torch.ones(32, 32, 32, dtype=torch.uint8)
    labels[8:24, 8:24, 8:24] = 40  # the labels between are not there
    seen = 0
    for seed in range(40):
        added = add_lesions(labels, Chance(seed, CPU))
        changed = added != labels
        assert (added[changed] > 40).all()
        assert len(labels[changed].unique()) <= 1
        seen += int(added.max()) - 40
    assert len(lesions) >= 40
    assert seen > 0.9 * len(lesions)


def test_air_alone_holds_no_lesion():
    labels = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.uint8)
    assert torch.equal(add_lesions(labels, Chance(0, CPU)), labels)


def test_a_gap_parts_an_object_from_what_is_around_it():
    labels = torch.ones(SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[8:16, 8:16, 8:16] = 3
    parted = add_gap(labels, 3)
    assert ((parted == 3) == (labels == 3)).all()
    ring = ndimage.binary_dilation((labels == 3).numpy()) & (labels != 3).numpy()
    assert ring.any()
    assert (parted.numpy()[ring] == 2).all()
    assert parted[0, 0, 0] == 1


@pytest.mark.parametrize("seed", range(8))
def test_an_object_with_parts_ends_with_a_label_that_is_there(seed):
    """That of its rim if it has one, whose contrast to the surrounding is seen to."""
    labels = torch.ones(SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[4:20, 4:20, 4:20], labels[0, 0, 0] = 2, 3  # the single voxel has room for nothing
    for whole, corner in ((2, (4, 4, 4)), (3, (0, 0, 0))):
        parted, outermost = add_parts(labels, whole, Chance(seed, CPU))
        assert ((parted != labels) <= (labels == whole)).all()
        assert outermost <= parted.max()
        assert outermost == whole or parted[corner] == outermost


def test_an_object_with_a_rim_ends_with_it(monkeypatch):
    monkeypatch.setattr(Chance, "maybe", lambda *_: True)
    labels = torch.ones(SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[4:20, 4:20, 4:20] = 2
    rimmed, outermost = add_parts(labels, 2, Chance(0, CPU))
    assert outermost == 3
    assert rimmed[4, 4, 4] == 3
    assert rimmed[12, 12, 12] == 2
