"""The compact network: SAM-Med3D's click protocol and two-way decoder on a small encoder, with logits at every voxel.

What differs from the published network, and why:

- convolutions see the image at a half and a quarter of its resolution, and join the decoder's upscaling, so that
  the mask follows edges (as the high-resolution features of SAM 2 do);
- clicks and the previous logits are also drawn as maps that enter the decoder at full resolution: given as tokens
  alone they take far longer to be learned;
- no padded windows and no relative positions: depthwise convolutions tell the tokens where they are, so that the
  same weights fit crops of any size.

Legend of shape suffixes: B batch, C channels, X Y Z the axes of a crop or a token grid, N points, T tokens.
"""

import torch
from torch import Tensor, nn

from backend.models.config import CompactConfig
from backend.models.layers import Mlp
from backend.models.mask_decoder import Attention, Head, TwoWayTransformer
from backend.models.prompt_encoder import BOX_CORNERS, PointEncoder
from backend.models.prompt_network import PromptNetwork

# Standard deviation of the bump that a click is drawn as, in voxels.
CLICK_SIGMA = 2.0
# Logits are drawn as tanh(logit / this).
LOGIT_SCALE = 4.0
# Voxels an axis that share a cell of the finest features; the network never convolves at full resolution.
CELL = 2
# Features of a voxel, whose product with the mask token's kernel is its logit.
VOXEL_FEATURES = 8
# Maps that prompts are drawn as: the previous logits, positive clicks, negative clicks, a box. Folded they are 32
# channels: with 24 the first convolution is four times slower on CPUs.
MAPS = 4


def fold(x_BCXYZ: Tensor) -> Tensor:
    """Move the voxels of each cell into channels: (B, C, X, Y, Z) -> (B, 8 C, X / 2, Y / 2, Z / 2)."""
    batch, channels, *size = x_BCXYZ.shape
    x, y, z = (count // CELL for count in size)
    cells = x_BCXYZ.reshape(batch, channels, x, CELL, y, CELL, z, CELL)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, -1, x, y, z)


def unfold(x_BCXYZ: Tensor) -> Tensor:
    """The inverse of `fold`: (B, 8 C, X, Y, Z) -> (B, C, 2 X, 2 Y, 2 Z)."""
    batch, channels, x, y, z = x_BCXYZ.shape
    cells = x_BCXYZ.reshape(batch, channels // CELL**3, CELL, CELL, CELL, x, y, z)
    return cells.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, CELL * x, CELL * y, CELL * z)


def draw_prompts(points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
    """Draw points (B, N, 3) with labels (B, N) and logits (B, 1, S, S, S) as maps (B, 4, S, S, S) from -1 to 1."""
    at_S = torch.arange(mask_logits.shape[-1], device=points.device)
    offset_BN3S = at_S - points[..., None]
    # Cut at four standard deviations: products of smaller numbers are denormal, and five times as slow on CPUs.
    bump_BN3S = torch.exp(-(offset_BN3S**2) / (2 * CLICK_SIGMA**2)) * (offset_BN3S.abs() < 4 * CLICK_SIGMA)
    clicks = [_blend(bump_BN3S * (labels == label)[..., None, None]) for label in (1, 0)]
    maps = torch.cat([*clicks, _draw_box(offset_BN3S, labels)], dim=1).to(mask_logits.dtype)
    return torch.cat([torch.tanh(mask_logits / LOGIT_SCALE), maps], dim=1)


def _draw_box(offset_BN3S: Tensor, labels: Tensor) -> Tensor:
    """1 between the corners of a box, 0 elsewhere and where there is none."""
    low, high = ((labels == corner)[..., None, None] for corner in BOX_CORNERS)
    above = (low & (offset_BN3S >= 0)).any(1, keepdim=True)
    below = (high & (offset_BN3S <= 0)).any(1, keepdim=True)
    return _blend((above & below).to(offset_BN3S.dtype))


def _blend(profile_BN3S: Tensor) -> Tensor:
    """The largest of N products of three profiles, (B, N, 3, S) -> (B, 1, S, S, S)."""
    if not profile_BN3S.shape[1]:
        size = profile_BN3S.shape[-1]
        return profile_BN3S.new_zeros(len(profile_BN3S), 1, size, size, size)
    x_BNS, y_BNS, z_BNS = profile_BN3S.unbind(2)
    return torch.einsum("bnx,bny,bnz->bnxyz", x_BNS, y_BNS, z_BNS).amax(1, keepdim=True)


class Residual(nn.Module):
    """Two normalised 3x3x3 convolutions, added to what they were given; the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolutions' change."""
        change: Tensor = self.body(x)
        return x + change


class TokenBlock(nn.Module):
    """A pre-norm transformer block with global attention; a depthwise convolution gives the positions."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.width
        self.position = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config.heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(config.mlp_ratio * width), nn.GELU())

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Add the attention and then the MLP to the tokens (B, C, X, Y, Z)."""
        grid = x_BCXYZ.shape[2:]
        x_BTC = (x_BCXYZ + self.position(x_BCXYZ)).flatten(2).transpose(1, 2)
        normed_BTC = self.norm1(x_BTC)
        x_BTC = x_BTC + self.attn(normed_BTC, normed_BTC, normed_BTC)
        x_BTC = x_BTC + self.mlp(self.norm2(x_BTC))
        y_BCXYZ: Tensor = x_BTC.transpose(1, 2).reshape(-1, x_BTC.shape[2], *grid)
        return y_BCXYZ


class CompactEncoder(nn.Module):
    """Image (B, 1, S, S, S) to tokens (B, W, S/8, S/8, S/8) and features at a quarter and a half of S."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        fine, middle = config.stem
        self.fine = nn.Sequential(nn.Conv3d(CELL**3, fine, 3, padding=1), Residual(fine))
        self.middle = nn.Sequential(nn.Conv3d(fine, middle, 2, stride=2), Residual(middle))
        self.tokens = nn.Sequential(
            nn.Conv3d(middle, config.width, 2, stride=2), *(TokenBlock(config) for _ in range(config.depth))
        )
        self.norm = nn.GroupNorm(1, config.width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coarsest first."""
        fine = self.fine(fold(image))
        middle = self.middle(fine)
        return self.norm(self.tokens(middle)), middle, fine


class MapEncoder(nn.Module):
    """The drawn prompts (B, 4, S, S, S) at an eighth, a quarter and a half of S."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        fine, middle = config.stem
        self.fine = nn.Conv3d(MAPS * CELL**3, fine, 3, padding=1)
        self.middle = nn.Sequential(nn.GELU(), nn.Conv3d(fine, middle, 2, stride=2))
        self.tokens = nn.Sequential(nn.GELU(), nn.Conv3d(middle, config.width, 2, stride=2))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coarsest first."""
        fine = self.fine(fold(maps))
        middle = self.middle(fine)
        return self.tokens(middle), middle, fine


class CompactPromptEncoder(PointEncoder):
    """Clicks to tokens, and clicks and logits to maps."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.maps = MapEncoder(config)


class CompactDecoder(nn.Module):
    """Two-way transformer between tokens, then upscaling joined by the image's and the maps' finer features."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        (fine, middle), width = config.stem, config.width
        self.transformer = TwoWayTransformer(config)
        self.mask_token = nn.Embedding(1, width)
        self.up_middle = nn.ConvTranspose3d(width, middle, 2, stride=2)
        self.middle = Residual(middle)
        self.up_fine = nn.ConvTranspose3d(middle, fine, 2, stride=2)
        self.fine = Residual(fine)
        self.voxels = nn.Sequential(nn.GroupNorm(8, fine), nn.GELU(), nn.Conv3d(fine, CELL**3 * VOXEL_FEATURES, 1))
        self.kernel = Head(width, width, VOXEL_FEATURES + 1)

    def forward(
        self, image: tuple[Tensor, ...], image_pe: Tensor, sparse_BTC: Tensor, maps: tuple[Tensor, ...]
    ) -> Tensor:
        """Logits (B, 1, S, S, S) of what the encoders give."""
        tokens_BTC = torch.cat([self.mask_token.weight.expand(len(sparse_BTC), -1, -1), sparse_BTC], dim=1)
        coarse, middle, fine = (x + y for x, y in zip(image, maps, strict=True))
        tokens_BTC, coarse_BTC = self.transformer(
            tokens_BTC, coarse.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        )
        middle = self.middle(middle + self.up_middle(coarse_BTC.transpose(1, 2).reshape(coarse.shape)))
        fine = self.fine(fine + self.up_fine(middle))
        kernel_BC, bias_B1 = self.kernel(tokens_BTC[:, 0]).split([VOXEL_FEATURES, 1], dim=-1)
        features = self.voxels(fine).unflatten(1, (VOXEL_FEATURES, CELL**3))
        return unfold(torch.einsum("bcvxyz,bc->bvxyz", features, kernel_BC) + bias_B1[..., None, None, None])


class Compact(PromptNetwork[CompactConfig]):
    """The compact network; the same interface as `SamMed3D`, except that an embedding is three tensors."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.image_encoder = CompactEncoder(config)
        self.prompt_encoder = CompactPromptEncoder(config)
        self.mask_decoder = CompactDecoder(config)

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """Embed images (B, 1, S, S, S), once for all prompts: features at S/8, S/4 and S/2, (B, C, ...) each."""
        embedding: tuple[Tensor, ...] = self.image_encoder(image)
        return embedding

    def decode(self, embedding: tuple[Tensor, ...], points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Predict the mask of one set of prompts for each embedded image; see `SamMed3D.decode`.

        Args:
            embedding: from `embed`.
            points: (B, N, 3) voxel coordinates in the image; N may be 0.
            labels: (B, N) integers: 1 positive, 0 negative, 2 and 3 the corners of a box, low and high, -1 not a point.
            mask_logits: (B, 1, S, S, S), from an earlier `decode` or from `empty_mask`.

        Returns:
            The logits of the mask, (B, 1, S, S, S); above 0 is inside.
        """
        sparse = self.prompt_encoder.embed_points(points, labels)
        maps = self.prompt_encoder.maps(draw_prompts(points, labels, mask_logits))
        logits: Tensor = self.mask_decoder(embedding, self.prompt_encoder.dense_pe(), sparse, maps)
        return logits
