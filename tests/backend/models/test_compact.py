"""The compact network: maps of prompts, logits at every voxel, and the interface of the published one."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.device import choose_device
from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.cells import convolve_cells, fold, unfold, upscale_cells
from backend.models.checkpoint import load_into, read_state_dict, save_safetensors
from backend.models.compact import GROUP_WIDTH, GROUPS, Compact, CompactPromptEncoder, mixed
from backend.models.config import COMPACT, CompactConfig
from backend.models.prompt_maps import LOOKS, MAPS, PLACES, draw_prompts, looks_of
from backend.phantom import torso

TINY = CompactConfig(
    image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=2, decoder_heads=2, decoder_mlp=32
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Compact(TINY).eval()


def click(*voxel, label=1):
    return torch.tensor([[voxel]], dtype=torch.float32), torch.tensor([[label]])


def drawn(image, points, labels, logits):
    return unfold(draw_prompts(fold(looks_of(image)), points, labels, logits))


def test_unfolding_puts_the_voxels_of_a_cell_into_their_places_and_folding_back():
    x = torch.arange(2 * 3 * 8 * 2 * 3 * 4.0).reshape(2, 3, 8, 2, 3, 4)
    whole = unfold(x)
    assert whole.shape == (2, 3, 4, 6, 8)
    assert whole[1, 2, 2:4, 4:6, 6:8].flatten().tolist() == x[1, 2, :, 1, 2, 3].tolist()
    assert torch.equal(fold(whole), x)


def test_layers_of_cells_give_what_torch_gives():
    maps, features = torch.randn(2, 3, 8, 6, 4), torch.randn(2, 5, 4, 3, 2)
    down, up, single = (
        torch.nn.Conv3d(3, 7, 2, stride=2),
        torch.nn.ConvTranspose3d(5, 7, 2, 2),
        torch.nn.Conv3d(5, 7, 1),
    )
    torch.testing.assert_close(convolve_cells(down, fold(maps).flatten(1, 2)), down(maps))
    torch.testing.assert_close(convolve_cells(single, features), single(features))
    torch.testing.assert_close(upscale_cells(up, features), up(features))
    for result in (convolve_cells(single, features), upscale_cells(up, features)):
        assert result.is_contiguous(memory_format=torch.channels_last_3d)


def test_maps_are_mixed_with_the_weights_of_each_cell():
    known, weights = torch.randn(2, 3, 8, 8, 8), torch.randn(2, 3, 4, 4, 4)
    large = weights.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    result = unfold(mixed(weights, fold(known).unbind(1))[:, None])
    torch.testing.assert_close(result, (large * known).sum(1, keepdim=True))


def test_clicks_are_drawn_where_they_are():
    points = torch.tensor([[[3.0, 8, 12], [10, 2, 5]]])
    maps = drawn(torch.randn(1, 1, 16, 16, 16), points, torch.tensor([[1, 0]]), torch.zeros(1, 1, 16, 16, 16))
    assert maps.shape == (1, MAPS, 16, 16, 16)
    for channel, voxel in ((0, (3, 8, 12)), (1, (10, 2, 5))):
        assert np.unravel_index(int(maps[0, channel].argmax()), (16, 16, 16)) == voxel
        assert maps[0, channel].max() == 1
    assert not maps[0, PLACES].any()


def test_logits_are_drawn_within_bounds():
    logits = torch.linspace(-50, 50, 16).expand(1, 1, 16, 16, 16)
    previous = drawn(torch.randn(1, 1, 16, 16, 16), *click(3, 4, 5), logits)[0, PLACES]
    assert previous.min() == -1
    assert previous.max() == 1
    assert (previous.diff() >= 0).all()


def test_points_that_are_none_leave_no_trace():
    points, labels = click(3, 4, 5, label=-1)
    empty = torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long)
    image, logits = torch.randn(2, 1, 1, 16, 16, 16)
    assert torch.equal(drawn(image, points, labels, logits), drawn(image, *empty, logits))


def test_what_is_as_bright_as_a_click_is_like_it_and_other_things_are_not():
    image = torch.zeros(1, 1, 16, 16, 16)
    image[..., 8:] = 1.0
    points, labels = torch.tensor([[[4.0, 4, 3], [4, 4, 12]]]), torch.tensor([[1, 0]])
    like_positive, _, like_negative, _ = drawn(image, points, labels, torch.zeros_like(image))[0, 3:7]
    assert like_positive[..., :8].min() > 0.95
    assert like_positive[..., 8:].max() < 0.25
    torch.testing.assert_close(like_positive, like_negative.flip(-1), atol=0.05, rtol=0)  # in steps of brightness


def test_of_several_clicks_the_most_similar_counts():
    image = torch.zeros(1, 1, 16, 16, 16)
    image[..., 5:10], image[..., 10:] = 0.5, 1.0
    points, labels = torch.tensor([[[4.0, 4, 2], [4, 4, 13]]]), torch.tensor([[1, 1]])
    like = drawn(image, points, labels, torch.zeros_like(image))[0, 3]
    assert like[..., :4].min() > 0.95
    assert like[..., 11:].min() > 0.95
    assert like[..., 7].max() < 0.5


def test_ranks_do_not_change_with_a_monotone_change_of_brightness():
    image = torch.randn(2, 1, 16, 16, 16)
    ranks = looks_of(image)[:, 1]
    assert -1 <= ranks.min() <= -0.99
    assert 0.99 <= ranks.max() <= 1
    assert ranks.mean().abs() < 0.05
    assert (looks_of(image.exp())[:, 1] - ranks).abs().max() < 0.05


def test_an_image_of_one_brightness_is_finite():
    assert looks_of(torch.full((1, 1, 16, 16, 16), 3.0)).isfinite().all()


def test_positions_of_points_and_of_the_grid_agree():
    """Unlike in the published network (quirk 4), a click in the middle of a token is encoded as that token."""
    encoder = CompactPromptEncoder(TINY)
    middle = torch.tensor([[[3.5, 11.5, 3.5]]])
    own = encoder.embed_points(middle, torch.tensor([[1]]))[0, 0] - encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(own, encoder.dense_pe()[0, :, 0, 1, 0])


def test_logits_come_at_every_voxel_and_depend_on_clicks_and_previous_logits(model):
    embedding = model.embed(torch.randn(1, 1, 16, 16, 16))
    assert [features.shape[1:] for features in embedding] == [
        (48, 2, 2, 2),
        (16, 4, 4, 4),
        (8, 8, 8, 8),
        (GROUPS * GROUP_WIDTH, 4, 4, 4),
        (3, 8, 8, 8),
        (LOOKS, 8, 8, 8, 8),
        (48, 2, 2, 2),
    ]
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
    with torch.no_grad():  # layers that begin silent
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    embedding = model.embed(torch.randn(2, 1, 16, 16, 16))
    points, labels = torch.rand(2, 1, 3) * 15, torch.tensor([[1], [0]])
    model.decode(embedding, points, labels, torch.randn(2, 1, 16, 16, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_weights_fit_crops_of_another_size(model, tmp_path):
    save_safetensors(model, tmp_path / "w.safetensors")
    larger = Compact(CompactConfig(**{**vars(TINY), "image_size": 32}))
    load_into(larger, read_state_dict(tmp_path / "w.safetensors"), "w")
    image = torch.randn(1, 1, 32, 32, 32)
    logits = larger(image, *click(3, 4, 5), larger.empty_mask(1))
    assert logits.shape == (1, 1, 32, 32, 32)
    assert torch.equal(model(image, *click(3, 4, 5), model.empty_mask(1, 32)), logits)


def test_a_grown_network_begins_with_the_answers_of_the_smaller_one(model):
    grow = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "grow_weights.py"))["grow"]
    larger = Compact(replace(TINY, stem_depth=(2, 3), depth=3)).eval()
    grow(larger, model.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    one, other = (network(image, *click(3, 4, 5), network.empty_mask(1)) for network in (model, larger))
    assert torch.equal(one, other)
    assert other.std() > 0


def test_a_session_runs_on_it(model):
    phantom = torso((40, 30, 20), (8.0, 8.0, 14.0))
    session = Session(Predictor(Engine(model, choose_device("cpu")), phantom.volume), extend=False)
    session.click(phantom.middle_of("liver"))
    session.segment()
    before = session.labels.copy()
    session.click(phantom.middle_of("spleen"))
    session.segment()
    assert (session.labels != before).any()


def test_the_shipped_sizes_are_compact():
    count = sum(parameter.numel() for parameter in Compact(COMPACT).parameters())
    assert 4e6 < count < 12e6  # in float16, under 25 MB


@pytest.mark.parametrize(
    "sizes",
    [{"image_size": 20}, {"width": 50}, {"stem": (12, 16)}, {"stem": (0, 16)}, {"stem_depth": (2, 0)}, {"depth": 0}],
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="must be"):
        CompactConfig(**sizes)
