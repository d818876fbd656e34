"""The compact network: maps of prompts, logits at every voxel, and the interface of the published one."""

import numpy as np
import pytest
import torch

from backend.device import choose_device
from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.checkpoint import load_into, read_state_dict, save_safetensors
from backend.models.compact import Compact, draw_prompts, fold, unfold
from backend.models.config import COMPACT, CompactConfig
from backend.phantom import torso

TINY = CompactConfig(image_size=16, stem=(8, 16), width=48, depth=1, heads=2, decoder_heads=2, decoder_mlp=32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Compact(TINY).eval()


def click(*voxel, label=1):
    return torch.tensor([[voxel]], dtype=torch.float32), torch.tensor([[label]])


def test_folding_puts_each_cell_of_voxels_into_channels_and_back():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    folded = fold(x)
    assert folded.shape == (2, 24, 2, 3, 4)
    assert folded[1, 8:16, 1, 2, 3].tolist() == x[1, 1, 2:4, 4:6, 6:8].flatten().tolist()
    assert torch.equal(unfold(folded), x)


def test_clicks_are_drawn_where_they_are():
    points = torch.tensor([[[3.0, 8, 12], [10, 2, 5]]])
    maps = draw_prompts(points, torch.tensor([[1, 0]]), torch.zeros(1, 1, 16, 16, 16))
    assert maps.shape == (1, 4, 16, 16, 16)
    for channel, voxel in ((1, (3, 8, 12)), (2, (10, 2, 5))):
        assert np.unravel_index(int(maps[0, channel].argmax()), (16, 16, 16)) == voxel
        assert maps[0, channel].max() == 1
    assert not maps[0, 0].any()
    assert not maps[0, 3].any()


def test_a_box_is_filled_and_logits_are_bounded():
    points, labels = torch.tensor([[[2.0, 3, 4], [5, 9, 6]]]), torch.tensor([[2, 3]])
    maps = draw_prompts(points, labels, torch.full((1, 1, 16, 16, 16), 50.0))
    assert maps[0, 3].sum() == 4 * 7 * 3
    assert maps[0, 3, 2:6, 3:10, 4:7].all()
    assert maps[0, 0].max() <= 1


def test_points_that_are_none_leave_no_trace():
    points, labels = click(3, 4, 5, label=-1)
    empty = torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long)
    logits = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(draw_prompts(points, labels, logits), draw_prompts(*empty, logits))


def test_logits_come_at_every_voxel_and_depend_on_clicks_and_previous_logits(model):
    embedding = model.embed(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(features.shape[1:]) for features in embedding] == [(48, 2, 2, 2), (16, 4, 4, 4), (8, 8, 8, 8)]
    first = model.decode(embedding, *click(3, 4, 5), model.empty_mask(1))
    assert first.shape == (1, 1, 16, 16, 16)
    others = (
        model.decode(embedding, *click(12, 4, 5), model.empty_mask(1)),
        model.decode(embedding, *click(3, 4, 5, label=0), model.empty_mask(1)),
        model.decode(embedding, *click(3, 4, 5), first),
        model.decode(embedding, torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long), first),
    )
    for other in others:
        assert other.shape == first.shape
        assert not torch.allclose(first, other)


def test_each_image_of_a_batch_is_answered_by_itself(model):
    images, previous = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    points, labels = torch.rand(2, 1, 3) * 15, torch.tensor([[1], [0]])
    both = model(images, points, labels, previous)
    for one in range(2):
        alone = model(*(x[one : one + 1] for x in (images, points, labels, previous)))
        torch.testing.assert_close(alone, both[one : one + 1], atol=1e-5, rtol=1e-4)


def test_every_parameter_is_trained(model):
    embedding = model.embed(torch.randn(2, 1, 16, 16, 16))
    points, labels = torch.rand(2, 1, 3) * 15, torch.tensor([[1], [0]])
    model.decode(embedding, points, labels, torch.randn(2, 1, 16, 16, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_weights_fit_crops_of_another_size(model, tmp_path):
    save_safetensors(model, tmp_path / "w.safetensors")
    larger = Compact(CompactConfig(**{**vars(TINY), "image_size": 32}))
    load_into(larger, read_state_dict(tmp_path / "w.safetensors"), "w")
    assert larger(torch.randn(1, 1, 32, 32, 32), *click(3, 4, 5), larger.empty_mask(1)).shape == (1, 1, 32, 32, 32)


def test_a_session_runs_on_it(model):
    phantom = torso((40, 30, 20), (8.0, 8.0, 14.0))
    session = Session(Predictor(Engine(model, choose_device("cpu")), phantom.volume), extend=False)
    session.click(phantom.middle_of("liver"))
    session.segment()
    assert session.labels.shape == phantom.volume.shape


def test_the_shipped_sizes_are_compact():
    count = sum(parameter.numel() for parameter in Compact(COMPACT).parameters())
    assert 5e6 < count < 12e6  # in float16, under 25 MB


@pytest.mark.parametrize("sizes", [{"image_size": 20}, {"width": 50}, {"stem": (12, 16)}, {"depth": 0}])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="must be"):
        CompactConfig(**sizes)
