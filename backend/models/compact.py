"""The compact network: SAM-Med3D's click protocol and two-way decoder on a small encoder, with logits at every voxel.

What differs from the published network, and why (docs/models/compact-trials.md has the measurements):

- convolutions see the image at a half and a quarter of its resolution, and join the decoder's way down to the tokens
  and up again, so that the mask follows edges (as the high-resolution features of SAM 2 do);
- clicks and the previous logits are also drawn as maps that enter the decoder at full resolution: given as tokens
  alone they take far longer to be learned;
- beside the maps of where clicks are, there are maps of what looks like the clicked places: in brightness at full
  resolution, and in learned features at a quarter of it. They halve the number of volumes it takes to learn; maps of
  what is connected to a click (`geodesic`) shorten the beginning once more;
- logits are a sum: coarse ones at an eighth and a quarter of the resolution, fine ones from the features of each cell
  of two voxels, and a weighted sum of what is known at full resolution (brightness, likeness, the previous logits),
  whose weights each cell gives, so that edges come out sharp without a convolution at full resolution;
- all clicks so far are given, not the newest alone, so that none is forgotten;
- no padded windows and no relative positions: the same weights fit crops of any size, and of any spacing.

Legend of shape suffixes: B batch, C channels, X Y Z the axes of a crop or a token grid, N points, T tokens, L looks
(kinds of brightness), G groups of learned features and W features of a group, V cells, I voxels of a cell, M maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backend.models.cells import CELL, VOXELS, cells_of, convolve_cells, fold, unfold, upscale_cells
from backend.models.config import CompactConfig
from backend.models.geodesic import DISTANCE_MAPS, draw_distances, step_costs
from backend.models.layers import Mlp, upsample
from backend.models.mask_decoder import Attention, Head, TwoWayTransformer
from backend.models.prompt_encoder import PointEncoder
from backend.models.prompt_maps import LOOKS, MAPS, PLACES, draw_prompts, looks_of
from backend.models.prompt_network import PromptNetwork

# Numbers that tell the decoder's last, per-mask layer what to look for.
KERNEL = 8
# Learned features of a cell at a quarter of the resolution, in which it is compared with the clicked cells.
GROUPS, GROUP_WIDTH = 8, 8
# Likenesses beyond this say nothing more.
MOST_ALIKE = 8.0


class Step(nn.Module):
    """A normalised 3x3x3 convolution, added to what it was given; the same shape.

    It is made of one along two axes and one along the third, which take half the time and learn as fast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, (3, 3, 1), padding=(1, 1, 0), bias=False),
            nn.Conv3d(channels, channels, (1, 1, 3), padding=(0, 0, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolution's change."""
        change: Tensor = self.body(x)
        return change.add_(x)  # in place: on CPUs new memory costs more than the sum


class TokenBlock(nn.Module):
    """A pre-norm transformer block with global attention."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config.heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(config.mlp_ratio * width), nn.GELU())

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Add the attention and then the MLP."""
        normed_BTC = self.norm1(x_BTC)
        x_BTC = x_BTC + self.attn(normed_BTC, normed_BTC, normed_BTC)
        y_BTC: Tensor = x_BTC + self.mlp(self.norm2(x_BTC))
        return y_BTC


class CompactEncoder(nn.Module):
    """Looks (B, L, S, S, S) to features at an eighth, a quarter and a half of S, and keys to compare cells by."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        (fine, middle), (steps, more), width = config.stem, config.stem_depth, config.width
        self.patch = nn.Conv3d(LOOKS, fine, CELL, stride=CELL)
        self.fine = nn.Sequential(*(Step(fine) for _ in range(steps)))
        self.middle = nn.Sequential(nn.Conv3d(fine, middle, 2, stride=2), *(Step(middle) for _ in range(more)))
        self.coarse = nn.Sequential(nn.Conv3d(middle, width, 2, stride=2), Step(width))
        self.blocks = nn.Sequential(*(TokenBlock(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Conv3d(middle, GROUPS * GROUP_WIDTH, 1)

    def forward(self, looks: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """The coarsest first, then the keys (B, G W, S/4, S/4, S/4); `positions` are added to the tokens."""
        # Channels last: twice as fast on CPUs.
        fine = self.fine(self.patch(looks).contiguous(memory_format=torch.channels_last_3d))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        tokens_BTC = self.norm(self.blocks((coarse + positions).flatten(2).transpose(1, 2)))
        return tokens_BTC.transpose(1, 2).reshape(coarse.shape), middle, fine, self.keys(middle)


class CompactPromptEncoder(PointEncoder):
    """Clicks to tokens, clicks and logits to maps, and clicks to what is like the clicked cells."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        fine, middle = config.stem
        self.maps = nn.Conv3d(MAPS, fine, CELL, stride=CELL)
        self.distances = nn.Conv3d(DISTANCE_MAPS, fine, 1)
        self.alike = nn.Conv3d(2 * GROUPS, middle, 1)

    def draw(self, drawn: Tensor, distances: Tensor) -> Tensor:
        """Features (B, C, X, Y, Z) of the maps (B, M, 8, X, Y, Z) of prompts and those of distances from clicks."""
        return convolve_cells(self.maps, drawn.flatten(1, 2)).add_(convolve_cells(self.distances, distances))

    def compare(self, keys: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """How like the most similar positive and negative click each cell is, (B, C, S/4, S/4, S/4) of keys."""
        size = keys.shape[-1]
        keys_BGWV = keys.reshape(len(keys), GROUPS, GROUP_WIDTH, -1)
        cells_BN = cells_of(points, size, voxels=CELL**2)
        clicked_BGWN = keys_BGWV.gather(3, cells_BN[:, None, None].expand(-1, GROUPS, GROUP_WIDTH, -1))
        alike_BGNV = clicked_BGWN.transpose(2, 3) @ keys_BGWV / GROUP_WIDTH**0.5
        likest = torch.cat([_likest(alike_BGNV, labels == label) for label in (1, 0)], dim=1)
        return convolve_cells(self.alike, likest.reshape(len(keys), -1, size, size, size))

    def dense_pe(self, grid: int | None = None) -> Tensor:
        """The position encoding of a token grid, with its axes in the order of the points' (unlike quirk 4)."""
        return super().dense_pe(grid).transpose(2, 3)


def _likest(alike_BGNV: Tensor, chosen_BN: Tensor) -> Tensor:
    """The largest likeness to the chosen clicks, (B, G, V); 0 where there is none."""
    chosen_BGNV = chosen_BN[:, None, :, None]
    nothing = alike_BGNV.new_full((*alike_BGNV.shape[:2], 1, alike_BGNV.shape[3]), -torch.inf)
    likest = torch.cat([alike_BGNV.masked_fill(~chosen_BGNV, -torch.inf), nothing], dim=2).amax(2)
    return likest.masked_fill(~chosen_BN.any(1)[:, None, None], 0).clamp(-MOST_ALIKE, MOST_ALIKE)


class CompactDecoder(nn.Module):
    """Down to the tokens, the two-way transformer, and up again, joined by the image's features on both ways.

    On each level of the way up there are logits; their sum is the mask's.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        (fine, middle), width = config.stem, config.width
        self.down_fine = Step(fine)
        self.down_middle = nn.Conv3d(fine, middle, 2, stride=2)
        self.down_coarse = nn.Sequential(nn.GroupNorm(8, middle), nn.GELU(), nn.Conv3d(middle, width, 2, stride=2))
        self.transformer = TwoWayTransformer(config)
        self.mask_token = nn.Embedding(1, width)
        self.coarse_norm = nn.LayerNorm(width)
        self.coarse_kernel = Head(width, width, width)
        self.up_middle = nn.ConvTranspose3d(width, middle, 2, stride=2)
        self.middle = Step(middle)
        self.middle_logits = nn.Sequential(nn.GroupNorm(8, middle), _silent(nn.Conv3d(middle, 1, 1)))
        self.up_fine = nn.ConvTranspose3d(middle, fine, 2, stride=2)
        self.fine = nn.Sequential(Step(fine), nn.GroupNorm(8, fine), nn.GELU())
        self.kernel = Head(width, width, KERNEL)
        self.voxels = nn.Linear(KERNEL, VOXELS * (fine + 1), bias=False)
        self.mix = _silent(nn.Conv3d(fine, MAPS - PLACES + LOOKS, 1))

    def forward(
        self, joined: tuple[Tensor, Tensor, Tensor], positions: Tensor, sparse_BTC: Tensor, known: Sequence[Tensor]
    ) -> Tensor:
        """The mask's logits.

        Args:
            joined: what is known of image and prompts at an eighth, a quarter and a half of the resolution.
            positions: the encoding of the coarsest ones' positions.
            sparse_BTC: the tokens of the clicks.
            known: maps of what is known at full resolution, folded, (B, 8, S/2, S/2, S/2) each.

        Returns:
            (B, 1, S, S, S).
        """
        tokens_BTC = torch.cat([self.mask_token.weight.expand(len(sparse_BTC), -1, -1), sparse_BTC], dim=1)
        coarse, middle, fine = joined
        fine = self.down_fine(fine)
        middle = middle + self.down_middle(fine)
        coarse = coarse + self.down_coarse(middle)
        tokens_BTC, coarse_BTC = self.transformer(
            tokens_BTC, coarse.flatten(2).transpose(1, 2), positions.flatten(2).transpose(1, 2)
        )
        mask_BC, size = tokens_BTC[:, 0], CELL * fine.shape[-1]
        seen = coarse_BTC.transpose(1, 2).unflatten(2, coarse.shape[2:])
        middle = self.middle(middle + upscale_cells(self.up_middle, seen))
        fine = self.fine(fine + upscale_cells(self.up_fine, middle))
        logits = unfold(self._voxels(fine, mask_BC, known))
        logits = logits.add_(upsample(self.middle_logits(middle), size))
        return logits.add_(upsample(self._coarse(coarse_BTC, mask_BC).reshape(-1, 1, *coarse.shape[2:]), size))

    def _coarse(self, coarse_BTC: Tensor, mask_BC: Tensor) -> Tensor:
        """The logits of the image's tokens, (B, T, 1), by weights that the mask's token gives."""
        kernel_BC1 = self.coarse_kernel(mask_BC)[..., None]
        logits_BT1: Tensor = self.coarse_norm(coarse_BTC) @ kernel_BC1 / kernel_BC1.shape[1] ** 0.5
        return logits_BT1

    def _voxels(self, fine: Tensor, mask_BC: Tensor, known: Sequence[Tensor]) -> Tensor:
        """The logits (B, 1, 8, X, Y, Z) of each cell's voxels.

        They are a cell's features weighted as the mask's token says, and what is known weighted as the features say.
        """
        layer_BIC = self.voxels(self.kernel(mask_BC)).unflatten(1, (VOXELS, -1))
        own_BIXYZ = _weighted(fine, layer_BIC[..., :-1]) + layer_BIC[..., -1:, None, None]
        weights_BMXYZ = convolve_cells(self.mix, fine)
        return mixed(weights_BMXYZ, known).add_(own_BIXYZ)[:, None]


def _weighted(features: Tensor, weights_BIC: Tensor) -> Tensor:
    """Sums (B, I, X, Y, Z) of features (B, C, X, Y, Z)."""
    sums: Tensor = (weights_BIC @ features.flatten(2)).reshape(*weights_BIC.shape[:2], *features.shape[2:])
    return sums


def mixed(weights_BMXYZ: Tensor, known: Sequence[Tensor]) -> Tensor:
    """The sum (B, 8, X, Y, Z) of M such maps, weighted by what their cells say."""
    total = torch.zeros_like(known[0])
    for weight, cells in zip(weights_BMXYZ.unbind(1), known, strict=True):
        total = total.addcmul_(weight[:, None], cells)
    return total


def _silent(layer: nn.Conv3d) -> nn.Conv3d:
    """Let a layer give zeros until it has learned better."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return layer


class Compact(PromptNetwork[CompactConfig]):
    """The compact network; the same interface as `SamMed3D`, except that an embedding is several tensors."""

    all_clicks = True
    any_spacing = True
    walk_share = 0.5

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.image_encoder = CompactEncoder(config)
        self.prompt_encoder = CompactPromptEncoder(config)
        self.mask_decoder = CompactDecoder(config)

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """Embed images (B, 1, S, S, S), once for all prompts.

        The embedding is features at S/8, S/4 and S/2, keys, costs, looks, and the tokens' positions. S may be any
        multiple of 8, whatever the configuration says.
        """
        looks = looks_of(image)
        grid = image.shape[-1] // CompactConfig.token
        positions = self.prompt_encoder.dense_pe(grid).expand(len(image), -1, -1, -1, -1)
        features = self.image_encoder(looks, positions)
        return *features, step_costs(looks), fold(looks), positions

    def decode(self, embedding: tuple[Tensor, ...], points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Predict the mask of one set of prompts for each embedded image; see `SamMed3D.decode`.

        Args:
            embedding: from `embed`.
            points: (B, N, 3) voxel coordinates in the image; N may be 0.
            labels: (B, N) integers: 1 positive, 0 negative, -1 not a point.
            mask_logits: (B, 1, S, S, S), from an earlier `decode` or from `empty_mask`.

        Returns:
            The logits of the mask, (B, 1, S, S, S); above 0 is inside.
        """
        coarse, middle, fine, keys, costs, looks, positions = embedding
        encoder = self.prompt_encoder
        sparse = encoder.embed_points(points, labels, mask_logits.shape[-1])
        drawn = draw_prompts(looks, points, labels, mask_logits)
        fine = fine + encoder.draw(drawn, draw_distances(costs, points, labels))
        middle = middle + encoder.compare(keys, points, labels)
        known = *drawn[:, PLACES:].unbind(1), *looks.unbind(1)
        logits: Tensor = self.mask_decoder((coarse, middle, fine), positions, sparse, known)
        return logits
