"""The prompt encoder: clicks and box corners to sparse tokens, a mask to a dense embedding.

Legend of shape suffixes: B batch, N points, C channels of a prompt, F frequencies (C = 3 F).
"""

import math

import torch
from torch import Tensor, nn

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import CompactConfig, ModelConfig
from backend.models.layers import LayerNorm3d

NOT_A_POINT = -1
BOX_CORNERS = (2, 3)


class PositionEncoding(nn.Module):
    """Random Fourier features of positions (SAM paper, appendix A, after Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, frequencies))

    def forward(self, positions: Tensor) -> Tensor:
        """Encode positions in the unit cube, (..., 3) -> (..., 3 F)."""
        # A product and a sum in place of a matmul, which autocast would round to half precision.
        phase_F = 2 * math.pi * ((2 * positions - 1)[..., None] * self.positional_encoding_gaussian_matrix).sum(-2)
        # Quirk 3 kept for compatibility: sin, cos and sin again, so that each sine is there twice.
        return torch.cat([phase_F.sin(), phase_F.cos(), phase_F.sin()], dim=-1)


class PointEncoder(nn.Module):
    """Clicks and box corners to sparse tokens (SAM-Med3D paper, section 3.2)."""

    def __init__(self, config: ModelConfig | CompactConfig) -> None:
        super().__init__()
        width = config.prompt_width
        self.image_size = config.image_size
        self.grid = config.grid
        self.pe_layer = PositionEncoding(width // 3)
        # Quirk 9 kept for compatibility: the published weights have no embeddings of box corners.
        kinds = 2 + (len(BOX_CORNERS) if config.box_prompts else 0)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(kinds))
        self.not_a_point_embed = nn.Embedding(1, width)

    def embed_points(self, points: Tensor, labels: Tensor, image_size: int | None = None) -> Tensor:
        """Embed points as tokens, (B, N, 3) and (B, N) -> (B, N or N + 1, C); see `forward`.

        They are voxels of an image of `image_size` voxels an axis, by default the configuration's.
        """
        if labels.shape[1] and not self._has_box(labels):
            # Quirk 5 kept for compatibility: a token "not a point" follows the clicks, unless there is a box.
            points = nn.functional.pad(points, (0, 0, 0, 1))
            labels = nn.functional.pad(labels, (0, 1), value=NOT_A_POINT)
        positions = (points + 0.5) / (image_size or self.image_size)
        encoding_BNC: Tensor = self.pe_layer(positions.to(self.not_a_point_embed.weight.dtype))
        is_point_BN1 = (labels != NOT_A_POINT)[..., None]
        kinds = [self.not_a_point_embed, *self.point_embeddings]  # label -1 comes first
        embedding_BNC = torch.cat([kind.weight for kind in kinds])[labels.long() + 1]
        return encoding_BNC * is_point_BN1 + embedding_BNC

    def _has_box(self, labels: Tensor) -> bool:
        """Check the labels of at least one point, and tell whether one is a corner of a box."""
        lowest, highest = (int(label) for label in labels.aminmax())
        if lowest < NOT_A_POINT or highest >= len(self.point_embeddings):
            known = [NOT_A_POINT, *range(len(self.point_embeddings))]
            raise SamMed3DError(
                ErrorCode.PROMPT_INVALID,
                f"Point labels from {lowest} to {highest} were given, but this network knows only {known}.",
                "Use 1 for a positive and 0 for a negative click; 2 and 3 need a network with box prompts.",
            )
        return highest >= min(BOX_CORNERS)

    def dense_pe(self, grid: int | None = None) -> Tensor:
        """Return the position encoding of the token grid, (1, C, grid, grid, grid), by default the configuration's."""
        grid = grid or self.grid
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(grid, device=matrix.device, dtype=matrix.dtype) + 0.5) / grid
        first, second, third = torch.meshgrid(centres, centres, centres, indexing="ij")
        # Quirk 4 kept for compatibility: the first two axes are swapped relative to the encoding of points.
        encoding: Tensor = self.pe_layer(torch.stack([second, first, third], dim=-1))
        return encoding.movedim(-1, 0)[None]


class PromptEncoder(PointEncoder):
    """Prompts to embeddings (SAM-Med3D paper, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.prompt_width
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, 4, 2, stride=2),
            LayerNorm3d(4),
            nn.GELU(),
            nn.Conv3d(4, 16, 2, stride=2),
            LayerNorm3d(16),
            nn.GELU(),
            nn.Conv3d(16, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(self, points: Tensor, labels: Tensor, mask_logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embed one set of prompts for each image.

        Args:
            points: (B, N, 3) voxel coordinates of the crop, axes as in the image; N may be 0.
            labels: (B, N) integers: 1 positive, 0 negative, 2 and 3 the two corners of a box, -1 not a point.
            mask_logits: (B, 1, L, L, L) logits of an earlier mask, or None for the embedding of "no mask".

        Returns:
            The sparse tokens, (B, N or N + 1, C), and the dense embedding, (B, C, grid, grid, grid).

        Raises:
            SamMed3DError: `PROMPT_INVALID` if a label is none that the network knows.
        """
        return self.embed_points(points, labels), self.embed_mask(mask_logits, batch=len(points))

    def embed_mask(self, mask_logits: Tensor | None, batch: int) -> Tensor:
        """Embed mask logits, (B, 1, L, L, L) -> (B, C, grid, grid, grid), or their absence."""
        dense: Tensor
        if mask_logits is None:
            dense = self.no_mask_embed.weight[:, :, None, None, None]
            return dense.expand(batch, -1, self.grid, self.grid, self.grid)
        dense = self.mask_downscaling(mask_logits)
        return dense
