"""The image encoder: a 3-D vision transformer with windowed and global attention, and a convolutional neck.

Legend of shape suffixes: B batch, D H W the three axes of the token grid, C channels of a token.
"""

import torch
from torch import Tensor, nn

from backend.models.attention import WindowAttention
from backend.models.config import ModelConfig
from backend.models.layers import LayerNorm3d, Mlp


class PatchEmbed(nn.Module):
    """Cut a volume into cubic patches and map each to a token: (B, 1, S, S, S) -> (B, D, H, W, C)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens, channels last."""
        x_BCDHW: Tensor = self.proj(image)
        return x_BCDHW.movedim(1, -1)


class EncoderBlock(nn.Module):
    """A pre-norm transformer block on a token grid: (B, D, H, W, C) -> (B, D, H, W, C)."""

    def __init__(self, config: ModelConfig, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = WindowAttention(config.width, config.heads, window)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, int(config.mlp_ratio * config.width), nn.GELU())

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Add the attention and then the MLP to the tokens."""
        x_BDHWC = x_BDHWC + self.attn(self.norm1(x_BDHWC))
        change_BDHWC: Tensor = self.mlp(self.norm2(x_BDHWC))
        return x_BDHWC + change_BDHWC


class ImageEncoder(nn.Module):
    """Image to embedding (SAM-Med3D paper, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grid, out = config.grid, config.prompt_width
        self.patch_embed = PatchEmbed(config.patch_size, config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, grid, config.width))
        windows = [grid if index in config.global_blocks else config.window for index in range(config.depth)]
        self.blocks = nn.ModuleList(EncoderBlock(config, window) for window in windows)
        self.neck = nn.Sequential(
            nn.Conv3d(config.width, out, 1, bias=False),
            LayerNorm3d(out),
            nn.Conv3d(out, out, 3, padding=1, bias=False),
            LayerNorm3d(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode normalised volumes.

        Args:
            image: (B, 1, S, S, S), S the image size, axes in the network's order (x, y, z).

        Returns:
            The embedding, (B, prompt width, grid, grid, grid), the same axis order.
        """
        x_BDHWC: Tensor = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x_BDHWC = block(x_BDHWC)
        embedding: Tensor = self.neck(x_BDHWC.movedim(-1, 1))
        return embedding
