"""What a scene is made of, before and after it is painted."""

import pytest
import torch

from backend.data.synthetic import generator
from backend.data.synthetic.generator import LARGEST_SHARE, LEAST_SHARE, Scene, generate
from backend.data.synthetic.label_maps import LabelMap

SIZE = 24
CPU = torch.device("cpu")


@pytest.fixture
def painted(monkeypatch):
    """What is given to be painted; it is not painted, for that takes long."""
    given = []
    monkeypatch.setattr(generator, "paint", lambda seen, *_: given.append(seen) or torch.zeros(seen.labels.shape))
    return given


@pytest.fixture
def over_threes(monkeypatch):
    """A label map of three slabs, always taken, in a surrounding of label 3."""
    monkeypatch.setattr(generator, "scene", lambda *_: torch.full((SIZE, SIZE, SIZE), 3, dtype=torch.uint8))
    monkeypatch.setattr(generator, "FROM_MAPS", 1.0)
    labels = torch.zeros(60, 60, 60, dtype=torch.uint8)
    labels[15:25, 15:45, 15:45], labels[25:35, 15:45, 15:45], labels[35:45, 15:45, 15:45] = 1, 2, 3
    return [[LabelMap(labels, 1.0)]]


def test_the_object_is_its_label_and_the_parts():
    labels = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    assert Scene(labels, 1, 1, 4, 0.0).mask.flatten().tolist() == [False, True, False, False, True, True]


def test_a_whole_map_is_the_map_and_nothing_of_its_surrounding(painted, over_threes, monkeypatch):
    monkeypatch.setattr(generator, "WHOLE_MAP", 1.0)
    monkeypatch.setattr(generator, "IN_FRONT", 0.0)
    for seed in range(12):
        generate(seed, SIZE, CPU, over_threes)
    for seen in painted:
        assert torch.equal(seen.mask, seen.labels > 3)
        assert seen.label > 3
    assert len(painted) >= 12


def test_what_an_object_with_parts_ends_with_is_what_should_be_seen(painted, monkeypatch):
    monkeypatch.setattr(generator, "WITH_PARTS", 1.0)
    monkeypatch.setattr(generator, "add_parts", lambda labels, whole, _: (labels.masked_fill(labels == whole, 77), 77))
    for seed in range(4):
        generate(seed, SIZE, CPU)
        assert painted[-1].label == 77
        assert torch.equal(painted[-1].mask, painted[-1].labels == 77)


def test_procedural_shapes_may_get_lesions(painted, monkeypatch):
    monkeypatch.setattr(generator, "WITH_LESIONS", 1.0)
    monkeypatch.setattr(generator, "add_lesions", lambda labels, _: labels + 90)
    generate(0, SIZE, CPU)
    assert painted[-1].labels.min() >= 90


def test_a_gap_is_never_of_air(painted, monkeypatch):
    gaps = []
    monkeypatch.setattr(generator, "add_gap", lambda labels, whole: gaps.append(whole) or labels)
    for name, value in (("WITH_PARTS", 0.0), ("WITH_GAP", 1.0), ("IN_FRONT", 0.0)):
        monkeypatch.setattr(generator, name, value)
    for seed in range(30):
        generate(seed, SIZE, CPU)
    assert len(gaps) > 20
    assert min(gaps) > 1  # its label is the one before


def test_what_cannot_become_an_object_is_not_painted(painted):
    for seed in range(30):
        generate(seed, SIZE, CPU)
    assert all(LEAST_SHARE <= seen.mask.float().mean() <= LARGEST_SHARE for seen in painted)


def test_label_maps_that_never_give_an_object_end_nothing(monkeypatch):
    monkeypatch.setattr(generator, "FROM_MAPS", 1.0)
    speck = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.uint8)
    speck[0, 0, 0] = 1
    monkeypatch.setattr(LabelMap, "placed", lambda *_: (speck, 1.0))
    assert generate(0, SIZE, CPU, [[LabelMap(speck, 1.0)]]).mask.any()
