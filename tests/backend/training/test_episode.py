"""The episode of simulated clicks."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backend.models.compact import Compact
from backend.models.config import CompactConfig, ModelConfig
from backend.models.sam_med3d import SamMed3D
from backend.training.clicks import plan_clicks
from backend.training.config import ClickSection
from backend.training.episode import Episode
from backend.training.freezing import freeze

TINY = ModelConfig(
    image_size=16, patch_size=4, width=12, depth=2, heads=2, global_blocks=(1,), prompt_width=48, window=3
)
MODELS = {
    "sam_med3d": lambda: SamMed3D(TINY),
    "compact": lambda: Compact(
        CompactConfig(image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=4, decoder_mlp=32)
    ),
}
CLICKS = ClickSection(interactions=5, centre_share=0.5)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = MODELS[request.param]().double()
    freeze(model)
    return model


def batch(count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 1, 16, 16, 16) float64, one box in each, and keys."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(count, 1, 16, 16, 16, dtype=torch.bool)
    for sample in range(count):
        mask[sample, :, 2 : 6 + sample, 4:9, 3:12] = True
    image = torch.randn(mask.shape, generator=generator, dtype=torch.float64) + mask
    return image, mask, torch.arange(count) * 1000 + 7


def gradients(episode: Episode, *samples: Tensor) -> dict[str, Tensor]:
    episode.zero_grad()
    episode(*samples).loss.mean().backward()
    return {
        name: parameter.grad.clone() for name, parameter in episode.model.named_parameters() if parameter.requires_grad
    }


class Watched(nn.Module):
    """Notes what the decoder is given, and answers with a fixed mask, or with the wrong half of it."""

    image_size = logits_size = 16
    supports_boxes = False
    all_clicks = False
    any_spacing = False
    walk_share = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = nn.Conv3d(1, 1, 1)
        self.weight = nn.Parameter(torch.ones(()))
        self.embedded = 0
        self.calls: list[dict[str, Any]] = []

    def empty_mask(self, batch: int, image_size: int) -> Tensor:
        assert image_size == 16
        return torch.zeros(batch, 1, 16, 16, 16)

    def embed(self, image: Tensor) -> Tensor:
        self.embedded += 1
        return self.image_encoder(image)

    def decode(self, embedding: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        learned = torch.is_grad_enabled()
        self.calls.append({"points": points, "labels": labels, "previous": mask_logits, "learned": learned})
        logits = torch.full_like(embedding, float(len(self.calls)))
        logits[:, :, 8:] *= -1
        return self.weight * logits + 0 * embedding


def test_each_interaction_sees_the_newest_click_and_the_logits_before() -> None:
    watched = Watched()
    image, mask, key = batch(1)
    output = Episode(watched, ClickSection(interactions=6, mask_only=2))(image.float(), mask, key)
    clicked = plan_clicks(key.tolist(), ClickSection(interactions=6, mask_only=2)).clicked[0]
    assert watched.embedded == 1
    assert [call["points"].shape[1] for call in watched.calls] == clicked.long().tolist()
    prediction = torch.zeros_like(mask)
    for number, call in enumerate(watched.calls):
        previous = call["previous"]
        assert not previous.requires_grad
        assert previous.abs().unique().tolist() == [number]  # zeros at first, then what the call before answered
        for point, label in zip(call["points"][0].long().tolist(), call["labels"][0].tolist(), strict=True):
            there = (0, 0, *point)
            assert mask[there] != prediction[there]
            assert label == int(mask[there])
        prediction = torch.zeros_like(mask)
        prediction[:, :, :8] = True
    overlap = 2 * (prediction & mask).sum() / (prediction.sum() + mask.sum())
    assert output.dice.tolist()[0] == pytest.approx([overlap.item()] * 6)


def test_all_clicks_are_given_to_a_model_that_wants_them() -> None:
    watched = Watched()
    watched.all_clicks = True
    image, mask, _ = batch(1)
    section = ClickSection(interactions=4, mask_only=1, first_clicks=5)
    key = torch.tensor([next(seed for seed in range(99) if (plan_clicks([seed], section).ahead >= 0).sum() == 2)])
    Episode(watched, section)(image.float(), mask, key)
    labels = [call["labels"][0].tolist() for call in watched.calls]
    assert [len(row) for row in labels] == [1, 2, 5, 6, 7, 8]  # two interactions go before, of at most four
    assert [label < 0 for label in labels[2]] == [False, False, True, True, False]
    assert labels[5][-1] == -1  # the last interaction sees no new click
    for before, after in zip(watched.calls, watched.calls[1:], strict=False):
        assert torch.equal(after["points"][:, : before["points"].shape[1]], before["points"])
    prediction = torch.zeros_like(mask)
    for number, call in enumerate(watched.calls[:5]):
        assert call["previous"].abs().unique().tolist() == [number]
        point, label = (0, 0, *call["points"][0, -1].long().tolist()), call["labels"][0, -1].item()
        assert mask[point] == bool(label) != prediction[point]
        prediction[:, :, :8] = True


def test_interactions_that_go_before_teach_nothing_and_are_each_samples_own() -> None:
    watched = Watched()
    mask = batch(10)[1]
    section = ClickSection(interactions=1, mask_only=0, first_clicks=6)
    Episode(watched, section)(mask.float(), mask, torch.arange(10))
    ahead = (plan_clicks(range(10), section).ahead >= 0).sum(1)
    assert len(ahead.unique()) > 2
    assert [len(call["points"]) for call in watched.calls[:-1]] == [int((ahead > n).sum()) for n in range(ahead.max())]
    assert [call["learned"] for call in watched.calls] == [False] * int(ahead.max()) + [True]
    assert watched.calls[-1]["previous"].abs().amax((1, 2, 3, 4)).tolist() == ahead.tolist()


def test_a_click_follows_the_sign_of_the_upsampled_logits() -> None:
    watched = Watched()
    watched.weight.data.fill_(0.1)  # the published sampler would see nothing below 0.5
    _, mask, key = batch(1)
    mask[:] = False
    mask[:, :, :9] = True
    Episode(watched, ClickSection(interactions=2, mask_only=1))(torch.zeros(1, 1, 16, 16, 16), mask, key)
    Episode(watched, ClickSection(interactions=3, mask_only=1))(torch.zeros(1, 1, 16, 16, 16), mask, key)
    assert watched.calls[3]["points"][0, 0, 0] == 8  # the one plane that is still missing
    assert watched.calls[3]["labels"].item() == 1


def test_a_given_embedding_is_taken() -> None:
    watched = Watched()
    image, mask, key = batch(2)
    Episode(watched, CLICKS)(image.float(), mask, key, torch.zeros(mask.shape))
    assert watched.embedded == 0


def test_loss_is_the_mean_of_the_interactions(model: nn.Module) -> None:
    samples = batch(2)
    one = Episode(model, ClickSection(interactions=1, mask_only=0))(*samples)
    two = Episode(model, ClickSection(interactions=2, mask_only=1))(*samples)
    assert one.dice.shape == (2, 1)
    assert two.dice.shape == (2, 2)
    assert torch.equal(one.dice[:, 0], two.dice[:, 0])
    assert not torch.equal(one.loss, two.loss)


def test_a_sample_is_the_same_in_any_batch(model: nn.Module) -> None:
    clicks = CLICKS.model_copy(update={"first_clicks": 4})
    episode = Episode(model, clicks)
    image, mask, key = batch()
    plan = plan_clicks(key.tolist(), clicks)
    assert len({tuple(row) for row in plan.clicked.tolist()}) > 1
    assert len((plan.ahead >= 0).sum(1).unique()) > 1
    together = episode(image, mask, key)
    order = torch.tensor([3, 1, 0, 2])
    shuffled = episode(image[order], mask[order], key[order])
    torch.testing.assert_close(shuffled.loss, together.loss[order], rtol=1e-12, atol=0)
    for sample in range(4):
        alone = episode(*(part[sample : sample + 1] for part in (image, mask, key)))
        torch.testing.assert_close(alone.loss, together.loss[sample : sample + 1], rtol=1e-12, atol=0)
        assert torch.equal(alone.dice, together.dice[sample : sample + 1])


def test_every_trained_parameter_has_a_gradient(model: nn.Module) -> None:
    image, mask, key = batch(1)
    for name, gradient in gradients(
        Episode(model, ClickSection(interactions=2, mask_only=1)), image, mask, key
    ).items():
        assert gradient is not None, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_gradient_is_that_of_the_loss(model: nn.Module) -> None:
    episode = Episode(model, ClickSection(interactions=1, mask_only=0))
    samples = batch(2)
    weight = model.mask_decoder.get_parameter("transformer.norm_final_attn.weight")
    slope = gradients(episode, *samples)["mask_decoder.transformer.norm_final_attn.weight"]
    step = 1e-6 * torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        weight += step
        above = episode(*samples).loss.mean()
        weight -= 2 * step
        below = episode(*samples).loss.mean()
    assert (above - below).item() == pytest.approx(2 * (slope * step).sum().item(), rel=1e-4)


def test_checkpointing_changes_neither_gradients_nor_names(model: nn.Module) -> None:
    samples = batch()
    expected, names = gradients(Episode(model, CLICKS), *samples), list(model.state_dict())
    copied = copy.deepcopy(Episode(model, CLICKS, checkpointing=True))  # as an average of the weights does
    model.zero_grad()
    found = gradients(copied, *samples)
    assert list(model.state_dict()) == list(copied.model.state_dict()) == names
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15)


def test_checkpointing_keeps_less(model: nn.Module) -> None:
    kept = [saved_bytes(Episode(copy.deepcopy(model), CLICKS, checkpointing=on), *batch()) for on in (False, True)]
    assert kept[1] < 0.5 * kept[0]


def saved_bytes(episode: Episode, *samples: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters left out."""
    parameters = {parameter.data_ptr() for parameter in episode.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        episode(*samples)
    return sum(sizes.values())


def test_a_frozen_encoder_embeds_without_gradient_and_in_evaluation_mode(model: nn.Module) -> None:
    freeze(model, ["image_encoder"])
    model.image_encoder.add_module("dropout", nn.Dropout())
    episode = Episode(model, CLICKS).train()
    assert episode.training
    assert model.mask_decoder.training
    assert not model.image_encoder.training
    assert not model.image_encoder.dropout.training
    image, mask, key = batch(2)
    embedding = episode.embed(image)
    tensors = (embedding,) if isinstance(embedding, Tensor) else embedding
    assert not any(tensor.requires_grad for tensor in tensors)
    assert not any(name.startswith("image_encoder") for name in gradients(episode, image, mask, key))
    torch.testing.assert_close(episode(image, mask, key, embedding).loss, episode(image, mask, key).loss)


def test_half_precision_gives_a_loss_in_full(model: nn.Module) -> None:
    image, mask, key = batch(2)
    episode = Episode(model.float(), CLICKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = episode(image.float(), mask, key)
    assert half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss, episode(image.float(), mask, key).loss, rtol=0.02, atol=0)


def test_interactions_ahead_leave_all_weights_their_gradients_in_half_precision() -> None:
    torch.manual_seed(0)
    model = MODELS["compact"]()
    freeze(model)
    episode = Episode(model, ClickSection(interactions=2, mask_only=0, first_clicks=9)).train()
    image, mask, key = batch(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = episode(image.float(), mask, key).loss.mean()
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []


def test_it_learns(model: nn.Module) -> None:
    episode = Episode(model, ClickSection(interactions=3, mask_only=1)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = episode(*batch(2)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
