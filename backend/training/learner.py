"""What learns, and how an optimizer step is made: passes, the exchange of gradients, the update."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backend.data.sample import Sample
from backend.device import Precision, autocast
from backend.training.config import TrainConfig
from backend.training.ema import build_ema
from backend.training.embedding_cache import EmbeddingCache
from backend.training.episode import Episode, EpisodeOutput, TrainedModel
from backend.training.folder import EMBEDDINGS_NAME, fingerprint
from backend.training.freezing import is_frozen
from backend.training.optimizer import build_optimizer
from backend.training.plan import Pass, Window
from backend.training.precision import build_scaler, training_precision
from backend.training.schedule import set_lr
from backend.training.world import World


@dataclass(frozen=True)
class StepReport:
    """What came of a step; the same on all ranks.

    Attributes:
        loss: mean over the window.
        dice: mean over the window, after each interaction.
        grad_norm: before clipping.
        updated: False where loss or gradient were not finite, and the weights were left as they were.
        told: sums over the ranks of the numbers that `step` was to tell.
    """

    loss: float
    dice: list[float]
    grad_norm: float
    updated: bool
    told: list[float]


class Learner:
    """A model with all that trains it, on one rank.

    Args:
        model: on the CPU; it is moved to the rank's device.
        config: clicks, optimizer and numerics.
        world: the ranks.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, world: World) -> None:
        self.model = model.to(world.device)
        self.ema = build_ema(self.model, config.optimizer.ema_decay)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self._world = world
        self._clip_norm = config.optimizer.clip_norm or float("inf")
        self.precision = training_precision(world.device, config.numerics.precision)
        self._scaler = build_scaler(world.device, self.precision)
        if config.numerics.compile:
            for part in self.model.children():
                part.compile()  # in place, so that the names of the weights stay
        episode = Episode(self.model, config.clicks, config.numerics.checkpointing).train()
        self._cache = _build_cache(episode, config, self.precision)
        self._episode: nn.Module = episode
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            self._episode = DistributedDataParallel(episode, ids)

    @property
    def best_model(self) -> nn.Module:
        """What is validated and exported: the average of the weights if there is one."""
        if self.ema is None:
            return self.model
        averaged: nn.Module = self.ema.module
        return averaged

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the network computes."""
        return autocast(self._world.device, self.precision)

    def step(
        self, window: Window, batches: Iterator[Sample], lr_factor: float, tell: Callable[[], list[float]]
    ) -> StepReport:
        """Learn from one window.

        Args:
            window: this rank's part of it.
            batches: give one batch for each of its passes.
            lr_factor: what the base learning rates are multiplied by.
            tell: numbers to add up over the ranks, asked for once the batches are worked through.
        """
        self.optimizer.zero_grad(set_to_none=True)
        set_lr(self.optimizer, lr_factor)
        figures = torch.stack([self._pass(part, next(batches)) for part in window.passes]).sum(0)
        norm = self._clip()
        bad = float(not (figures.isfinite().all() and norm.isfinite()))
        told = tell()
        agreed = self._world.sum(torch.tensor([bad, *told, *figures.tolist()], dtype=torch.float64)).tolist()
        healthy, (loss, *dice) = agreed[0] == 0, agreed[1 + len(told) :]
        self._update(healthy)
        return StepReport(loss, dice, float(norm), healthy, agreed[1 : 1 + len(told)])

    def state_dict(self) -> dict[str, Any]:
        """All that changes while it learns."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state, also of another device or precision."""
        self.model.load_state_dict(state["model"])
        saved, own = state["optimizer"], self.optimizer.param_groups
        groups = [{**group, "fused": here["fused"]} for group, here in zip(saved["param_groups"], own, strict=True)]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        if state["scaler"]:  # only float16 has one
            self._scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

    def _pass(self, part: Pass, batch: Sample) -> Tensor:
        """Add the gradient of a pass; returns its share of the window's mean loss and Dice, (1 + interactions,)."""
        with nullcontext() if part.last else self._alone():
            with self.autocast():
                embedding = None if self._cache is None else self._cache.embed(part.keys, batch.image)
                output: EpisodeOutput = self._episode(batch.image, batch.mask, batch.key, embedding)
            loss: Tensor = self._scaler.scale((output.loss * part.weight).sum())
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        figures = torch.cat([output.loss.detach()[:, None], output.dice], dim=1)
        return figures.sum(0) * (part.weight / self._world.size)

    def _alone(self) -> AbstractContextManager[object]:
        """Context of a pass after which no gradients are exchanged."""
        return self._episode.no_sync() if isinstance(self._episode, DistributedDataParallel) else nullcontext()

    def _clip(self) -> Tensor:
        """Shorten the gradient to the largest norm; returns the norm it had."""
        self._scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)

    def _update(self, healthy: bool) -> None:
        if healthy:
            self._scaler.step(self.optimizer)
            if self.ema is not None:
                self.ema.update_parameters(self.model)
        self._scaler.update()


def _build_cache(episode: Episode, config: TrainConfig, precision: Precision) -> EmbeddingCache | None:
    """A cache where embeddings come again; on the disk too, so that a resumed run takes the same ones to the bit."""
    if not config.data.variants or not is_frozen(cast(TrainedModel, episode.model).image_encoder):
        return None
    # Of this configuration alone: the same encoder may have seen other data, or other crops of it. And of this
    # precision: one of float16 may have overflowed, which going on with float32 is to mend.
    folder = config.run.out / EMBEDDINGS_NAME / f"{fingerprint(config)}-{precision}"
    return EmbeddingCache(episode, config.data.variants, folder=folder)
