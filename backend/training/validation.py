"""How good the network is on held-out masks: Dice after a few simulated clicks, at the level of crops."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from backend.data.sample import Key
from backend.training.batches import Batches
from backend.training.config import ClickSection
from backend.training.episode import Episode
from backend.training.world import World

CLICKS = (1, 3, 5, 10)


class Validation:
    """Validates one model again and again on the same samples with the same clicks.

    Args:
        model: what is validated.
        centre_share: as in `ClickSection`.
        micro_batch: samples of a pass.
        autocast: gives the context in which the network computes.
    """

    def __init__(
        self,
        model: nn.Module,
        centre_share: float,
        micro_batch: int,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        section = ClickSection(interactions=max(CLICKS), mask_only=0, centre_share=centre_share)
        self._episode = Episode(model, section)
        self._micro_batch = micro_batch
        self._autocast = autocast

    @torch.no_grad()
    def __call__(self, batches: Batches, world: World, stopped: Callable[[], bool]) -> dict[int, float] | None:
        """Mean Dice by number of clicks, the same on all ranks; each looks at its share of the samples.

        Args:
            batches: give the held-out samples.
            world: the ranks.
            stopped: asked before each batch whether to give up.

        Returns:
            None if a rank gave up.
        """
        was_training = self._episode.training
        self._episode.eval()
        keys = [Key(0, index) for index in range(batches.held_out)][world.rank :: world.size]
        groups = [tuple(keys[start : start + self._micro_batch]) for start in range(0, len(keys), self._micro_batch)]
        totals = torch.zeros(len(CLICKS) + 2, dtype=torch.float64)  # Dice sums, samples, ranks that gave up
        for batch in batches.validation(groups):
            if stopped():
                totals[-1] = 1
                break
            with self._autocast():  # of the network alone: volumes may be made while batches are got
                dice = self._episode(batch.image, batch.mask, batch.key).dice
            totals[:-2] += dice[:, [clicks - 1 for clicks in CLICKS]].sum(0).cpu()
            totals[-2] += len(dice)
        self._episode.train(was_training)
        totals = world.sum(totals)
        if totals[-1]:
            return None
        return dict(zip(CLICKS, (totals[:-2] / totals[-2]).tolist(), strict=True))


def score(dice: dict[int, float]) -> float:
    """What the best checkpoint is chosen by: the mean over the numbers of clicks."""
    return sum(dice.values()) / len(dice)
