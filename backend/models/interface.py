"""What inference, training and evaluation need of a model that answers prompts."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Embedding = Tensor | tuple[Tensor, ...]
"""What a model keeps of images: one tensor or several, each with the images along its first axis."""


def map_embedding(function: Callable[[Tensor], Tensor], embedding: Embedding) -> Embedding:
    """The embedding with a function applied to each of its tensors."""
    if isinstance(embedding, Tensor):
        return function(embedding)
    return tuple(function(tensor) for tensor in embedding)


def bytes_of(embedding: Embedding) -> int:
    """The memory that an embedding takes."""
    return sum(tensor.nbytes for tensor in ((embedding,) if isinstance(embedding, Tensor) else embedding))


class PromptModel(Protocol):
    """A model of cubic crops with S = `image_size` voxels an axis and masks with L = `logits_size` logits an axis."""

    @property
    def image_size(self) -> int:
        """Voxels of a crop along each axis."""

    @property
    def logits_size(self) -> int:
        """Logits of a crop along each axis."""

    @property
    def supports_boxes(self) -> bool:
        """Whether labels 2 and 3, the corners of a box, are known."""

    @property
    def all_clicks(self) -> bool:
        """Whether it is given all clicks so far, not the newest alone."""

    @property
    def any_spacing(self) -> bool:
        """Whether crops may have any voxel size, so that they can be fitted to the object; else it is 1.5 mm."""

    @property
    def walk_share(self) -> float:
        """How much of an answer to the first clicks is a random walk's, from 0 to 1; only with `any_spacing`."""

    def embed(self, image: Tensor) -> Embedding:
        """Embedding of images (B, 1, S, S, S)."""

    def decode(self, embedding: Any, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits (B, 1, L, L, L) of points (B, N, 3) with labels (B, N) after previous logits (B, 1, L, L, L).

        The embedding is what the model's own `embed` gave.
        """

    def to(self, device: torch.device) -> object:
        """Move the weights."""
