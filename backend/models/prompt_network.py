"""What the networks have in common: sizes that others ask for, and an image with its prompts in one call."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from backend.models.config import CompactConfig, ModelConfig
from backend.models.interface import Embedding

Config = TypeVar("Config", ModelConfig, CompactConfig)


class PromptNetwork(nn.Module, ABC, Generic[Config]):
    """A network that embeds an image once and then answers sets of prompts.

    Args:
        config: the sizes of the network.
    """

    all_clicks = False
    """Whether `decode` is given all clicks so far; else the newest alone, and the logits before it."""

    any_spacing = False
    """Whether images may have any voxel size; else it is 1.5 mm."""

    walk_share = 0.0
    """How much of an answer to the first clicks is a random walk's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config

    @property
    def image_size(self) -> int:
        """Voxels an axis of an image."""
        return self.config.image_size

    @property
    def logits_size(self) -> int:
        """Voxels an axis of the mask logits."""
        return self.config.logits_size

    @property
    def supports_boxes(self) -> bool:
        """Whether the labels 2 and 3, the corners of a box, are known."""
        return self.config.box_prompts

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next(self.parameters()).dtype

    def empty_mask(self, batch: int, image_size: int | None = None) -> Tensor:
        """Return the mask prompt of a first interaction, zeros of shape (batch, 1, L, L, L).

        L goes with the size of the image, by default the configuration's; only some networks take others.
        """
        # Quirk 6 kept for compatibility: it is a mask of zeros, for the embedding of "no mask" was never trained.
        size = (image_size or self.image_size) * self.logits_size // self.image_size
        return torch.zeros(batch, 1, size, size, size, device=self.device, dtype=self.dtype)

    @abstractmethod
    def embed(self, image: Tensor) -> Embedding:
        """Embed images (B, 1, S, S, S), once for all prompts."""

    @abstractmethod
    def decode(self, embedding: Any, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Predict the mask logits (B, 1, L, L, L) of one set of prompts for each embedded image."""

    def forward(self, image: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed images and decode one set of prompts for each; see `embed` and `decode`."""
        return self.decode(self.embed(image), points, labels, mask_logits)
