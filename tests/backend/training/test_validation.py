"""Validation on held-out samples."""

import tiny_run
import torch
from torch import Tensor, nn

from backend.data.sample import Key, Sample
from backend.device import autocast
from backend.training.batches import Batches
from backend.training.config import ModelSection
from backend.training.episode import EpisodeOutput
from backend.training.starts import build_model
from backend.training.validation import CLICKS, Validation
from backend.training.world import World

CPU = torch.device("cpu")


class MadeInFull(tiny_run.Balls):
    """Samples that would come out wrong if they were made in half precision."""

    def __getitem__(self, key: Key) -> Sample:
        assert not torch.is_autocast_enabled("cpu")
        return super().__getitem__(key)


def test_only_the_network_is_in_half_precision() -> None:
    model = build_model(ModelSection(name="small", sizes=tiny_run.SIZES), 0)
    data = MadeInFull(0, 3)
    batches = Batches(data, data, 0, CPU)
    seen: list[torch.dtype] = []
    hook = model.image_encoder.register_forward_hook(lambda *_: seen.append(torch.get_autocast_dtype("cpu")))
    half = Validation(model, 0.0, 2, lambda: autocast(CPU, "bfloat16"))(batches, World(CPU), lambda: False)
    hook.remove()
    assert half is not None
    assert tuple(half) == CLICKS
    assert seen == [torch.bfloat16] * 2
    assert Validation(model, 0.0, 2)(batches, World(CPU), lambda: True) is None  # asked to stop


class Counted(nn.Module):
    """An episode whose Dice is the number of clicks, and more in every other sample."""

    def forward(self, image: Tensor, *_: Tensor) -> EpisodeOutput:
        dice = torch.arange(1.0, 11.0).repeat(len(image), 1)
        dice[1::2] += 2
        return EpisodeOutput(torch.zeros(len(image)), dice)


def test_the_dice_is_the_mean_after_so_many_clicks() -> None:
    model = build_model(ModelSection(name="small", sizes=tiny_run.SIZES), 0)
    data = tiny_run.Balls(0, 4)
    validation = Validation(model, 0.0, 2)
    validation._episode = Counted()
    assert validation(Batches(data, data, 0, CPU), World(CPU), lambda: False) == {1: 2, 3: 4, 5: 6, 10: 11}
