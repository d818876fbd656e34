"""The episode of simulated clicks on a batch, as the forward of one module: what DistributedDataParallel wraps."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.models.interface import Embedding, PromptModel, map_embedding
from backend.models.layers import upsample
from backend.models.prompt_encoder import NOT_A_POINT
from backend.training.clicks import plan_clicks, simulate_clicks
from backend.training.config import ClickSection
from backend.training.freezing import is_frozen
from backend.training.loss import dice_ce_loss, dice_score

# The backward pass computes again what is called with this.
recomputed: Callable[..., Any] = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


Clicks = tuple[Tensor, Tensor]


class TrainedModel(PromptModel, Protocol):
    """A model of the interface that starts from an empty mask and consists of the parts that can be frozen."""

    image_encoder: nn.Module

    def empty_mask(self, batch: int, image_size: int) -> Tensor:
        """The mask prompt of a first interaction with images of that size, (batch, 1, L, L, L)."""


class EpisodeOutput(NamedTuple):
    """What an episode gives for each sample.

    Attributes:
        loss: (B,) float32, the mean over the interactions, each of which counts the same.
        dice: (B, interactions) float32, without gradient, of the mask after each interaction.
    """

    loss: Tensor
    dice: Tensor


class Episode(nn.Module):
    """A user who clicks on what is wrong, again and again (SAM-Med3D paper, section 3.3; published training code).

    The image is embedded once. Each interaction decodes it with the newest click alone (or all so far, whichever the
    model is made for) and the logits of the one before; see `plan_clicks` for those without a new click. These logits
    are detached: the clicks chosen from them have no gradient either, and so each interaction learns to make the best
    of what it is given, without a gradient through ten others. (The published code does not detach.)

    A sample's loss depends on the sample and the weights alone, not on its batch or rank.

    Args:
        model: of the interface; its frozen parts stay in evaluation mode.
        clicks: how many interactions, and which clicks.
        checkpointing: compute the encoder's and the decoder's activations again in the backward pass, for less memory.
    """

    def __init__(self, model: nn.Module, clicks: ClickSection, checkpointing: bool = False) -> None:
        super().__init__()
        self.model = model
        self.clicks = clicks
        self._checkpointing = checkpointing
        if checkpointing:
            recompute_blocks(self._net.image_encoder)

    @property
    def _net(self) -> TrainedModel:
        return cast(TrainedModel, self.model)

    def train(self, mode: bool = True) -> "Episode":
        """Set the training mode, but of frozen parts never."""
        super().train(mode)
        for part in self.model.children():
            if is_frozen(part):
                part.eval()
        return self

    def forward(self, image: Tensor, mask: Tensor, key: Tensor, embedding: Embedding | None = None) -> EpisodeOutput:
        """Click through one episode a sample.

        Args:
            image: (B, 1, S, S, S) normalised intensities, axes (x, y, z).
            mask: (B, 1, S, S, S) bool, the object.
            key: (B,) int64, the seeds of the clicks.
            embedding: of the images, if it is known; then `image` is not looked at.
        """
        if embedding is None:
            embedding = self.embed(image)
        plan = plan_clicks(key.tolist(), self.clicks)
        clicks, logits, prediction = self._go_ahead(embedding, plan.ahead, mask)
        losses, dices = [], []
        for draws, centre, clicked in zip(plan.draws.T, plan.centre.T, plan.clicked.T, strict=True):
            click = simulate_clicks(prediction, mask, draws, centre)
            if self._net.all_clicks:
                clicks = _with_click(clicks, click, clicked)
                logits = self._decode(embedding, *clicks, logits.detach())
            else:
                logits = self._interact(embedding, click, clicked.tolist(), logits.detach())
            loss, prediction = recomputed(_judge, logits, mask)  # eleven masks of full size are large, and soon made
            losses.append(loss)
            dices.append(dice_score(prediction, mask))
        return EpisodeOutput(torch.stack(losses, dim=1).mean(1), torch.stack(dices, dim=1))

    @torch.no_grad()
    def _go_ahead(self, embedding: Embedding, ahead: Tensor, mask: Tensor) -> tuple[Clicks, Tensor, Tensor]:
        """What the first interaction starts from: clicks, logits and prediction after interactions that teach nothing.

        So the late clicks of a long episode are learned at the cost of a short one.
        """
        clicks = mask.new_zeros(len(mask), 0, 3, dtype=torch.float32), mask.new_zeros(len(mask), 0, dtype=torch.long)
        logits, prediction = self._net.empty_mask(len(mask), mask.shape[-1]), torch.zeros_like(mask)
        nowhere = torch.zeros(len(mask), dtype=torch.bool)
        for draws in ahead.T:
            click = simulate_clicks(prediction, mask, draws.clamp_min(0), nowhere)
            clicks = _with_click(clicks, click, draws >= 0)
            rows = (draws >= 0).nonzero()[:, 0].to(mask.device)
            if len(rows):
                points, labels = (part[rows] for part in (clicks if self._net.all_clicks else click))
                of_rows = map_embedding(partial(_take, rows), embedding)
                logits[rows] = self._net.decode(of_rows, points, labels, logits[rows]).to(logits.dtype)
                prediction[rows] = _at_size(logits[rows], mask.shape[-1]) > 0
        # Autocast of older PyTorch (its issue 158232) would go on with casts of weights made here, without gradients.
        torch.clear_autocast_cache()
        return clicks, logits, prediction

    def embed(self, image: Tensor) -> Embedding:
        """The embedding of images (B, 1, S, S, S), without gradient if the image encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self._net.image_encoder)):
            return self._net.embed(image)

    def _interact(
        self, embedding: Embedding, click: tuple[Tensor, Tensor], clicked: list[bool], previous: Tensor
    ) -> Tensor:
        """Decode (B, 1, L, L, L) logits; samples with a click apart from those without, whose prompts are fewer."""
        if len(set(clicked)) == 1:
            points, labels = (prompt[:, : int(clicked[0])] for prompt in click)
            return self._decode(embedding, points, labels, previous)
        groups = [[i for i, there in enumerate(clicked) if there == kind] for kind in (True, False)]
        parts = []
        for group, points_each in zip(groups, (1, 0), strict=True):
            rows = torch.tensor(group, device=previous.device)
            points, labels = (prompt[rows, :points_each] for prompt in click)
            parts.append(self._decode(map_embedding(partial(_take, rows), embedding), points, labels, previous[rows]))
        order = torch.tensor(groups[0] + groups[1], device=previous.device).argsort()
        return torch.cat(parts)[order]

    def _decode(self, embedding: Embedding, points: Tensor, labels: Tensor, previous: Tensor) -> Tensor:
        decode = partial(recomputed, self._net.decode) if self._checkpointing else self._net.decode
        return decode(embedding, points, labels, previous)


def _with_click(clicks: Clicks, click: Clicks, there: Tensor) -> Clicks:
    """The clicks (B, N, 3), (B, N) and one more, "not a point" where there is none."""
    labels = torch.where(there.to(click[1].device)[:, None], click[1], NOT_A_POINT)
    return torch.cat([clicks[0], click[0]], dim=1), torch.cat([clicks[1], labels], dim=1)


def _take(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows]


def _judge(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The loss (B,) of logits (B, 1, L, L, L) at the mask's size S, and where they are above 0 there."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = _at_size(logits, mask.shape[-1])
        return dice_ce_loss(logits, mask), logits.detach() > 0


def _at_size(logits: Tensor, size: int) -> Tensor:
    """Logits (B, 1, L, L, L) as (B, 1, S, S, S)."""
    return logits if logits.shape[-1] == size else upsample(logits, size)


def recompute_blocks(encoder: nn.Module) -> None:
    """Let each block of an encoder be computed again in the backward pass; the names of parameters stay as they are.

    A block is a child, or a member of a child that is a list or a sequence, that has children of its own.
    """
    for block in _members(encoder):
        if any(block.children()):
            block.forward = partial(recomputed, block.forward)  # a wrapping module would rename them


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from child
        else:
            yield child
