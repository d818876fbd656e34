"""The mask decoder: a two-way transformer between prompt tokens and image tokens, then upscaling to mask logits.

Legend of shape suffixes: B batch, T prompt tokens, I image tokens, Q K tokens of either kind as queries and keys,
C channels, N heads, X channels of one head, M masks, V voxels of the logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.models.config import CompactConfig, ModelConfig
from backend.models.layers import LayerNorm3d, Mlp

MASKS = 4
"""Mask heads: head 0 is the mask; quirk 6 kept for compatibility: heads 1 to 3 were never trained."""

IOU_HIDDEN = 256


class Attention(nn.Module):
    """Multi-head attention between two sets of tokens, within `inner` channels."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q_BQC: Tensor, k_BKC: Tensor, v_BKC: Tensor) -> Tensor:
        """Return what the queries gather from the values, (B, Q, C)."""
        q_BNQX, k_BNKX, v_BNKX = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.q_proj(q_BQC), self.k_proj(k_BKC), self.v_proj(v_BKC))
        )
        y_BNQX = functional.scaled_dot_product_attention(q_BNQX, k_BNKX, v_BNKX)
        y_BQC: Tensor = self.out_proj(y_BNQX.transpose(1, 2).flatten(2))
        return y_BQC


class TwoWayBlock(nn.Module):
    """Self attention of the prompt tokens, prompt to image, an MLP, and image to prompt (SAM paper, appendix A)."""

    def __init__(self, config: ModelConfig | CompactConfig, *, first: bool) -> None:
        super().__init__()
        width, heads = config.prompt_width, config.decoder_heads
        self.first = first
        self.self_attn = Attention(width, heads, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.decoder_mlp, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, width // 2)

    def forward(self, x_BTC: Tensor, y_BIC: Tensor, x_pe_BTC: Tensor, y_pe_BIC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prompt tokens x and the image tokens y after one exchange; their encodings stay the same."""
        x_BTC = self.norm1(self._attend_to_self(x_BTC, x_pe_BTC))
        x_BTC = self.norm2(x_BTC + self.cross_attn_token_to_image(x_BTC + x_pe_BTC, y_BIC + y_pe_BIC, y_BIC))
        x_BTC = self.norm3(x_BTC + self.mlp(x_BTC))
        y_BIC = self.norm4(y_BIC + self.cross_attn_image_to_token(y_BIC + y_pe_BIC, x_BTC + x_pe_BTC, x_BTC))
        return x_BTC, y_BIC

    def _attend_to_self(self, x_BTC: Tensor, x_pe_BTC: Tensor) -> Tensor:
        y_BTC: Tensor
        if self.first:  # the tokens are their own position encoding: nothing to add, and no residual
            y_BTC = self.self_attn(x_BTC, x_BTC, x_BTC)
            return y_BTC
        q_BTC = x_BTC + x_pe_BTC
        y_BTC = self.self_attn(q_BTC, q_BTC, x_BTC)
        return x_BTC + y_BTC


class TwoWayTransformer(nn.Module):
    """Two-way blocks and a last attention of the prompt tokens to the image (SAM paper, appendix A)."""

    def __init__(self, config: ModelConfig | CompactConfig) -> None:
        super().__init__()
        width = config.prompt_width
        self.layers = nn.ModuleList(TwoWayBlock(config, first=index == 0) for index in range(config.decoder_depth))
        self.final_attn_token_to_image = Attention(width, config.decoder_heads, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens_BTC: Tensor, image_BIC: Tensor, image_pe_BIC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prompt tokens (B, T, C) and the image tokens (B, I, C) after they have seen each other."""
        x_BTC, y_BIC = tokens_BTC, image_BIC
        for layer in self.layers:
            x_BTC, y_BIC = layer(x_BTC, y_BIC, tokens_BTC, image_pe_BIC)
        attended_BTC = self.final_attn_token_to_image(x_BTC + tokens_BTC, y_BIC + image_pe_BIC, y_BIC)
        return self.norm_final_attn(x_BTC + attended_BTC), y_BIC


class Head(nn.Module):
    """Three linear layers with ReLU between them, (..., C) -> (..., out)."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension to `out` channels."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        y: Tensor = self.layers[-1](x)
        return y


class MaskDecoder(nn.Module):
    """Embeddings of an image and of its prompts to mask logits (SAM-Med3D paper, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.prompt_width
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(width, width // 4, 2, stride=2),
            LayerNorm3d(width // 4),
            nn.GELU(),
            nn.ConvTranspose3d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(width, width, width // 8) for _ in range(MASKS))
        self.iou_prediction_head = Head(width, IOU_HIDDEN, MASKS)

    def forward(self, embedding: Tensor, image_pe: Tensor, sparse_BTC: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one set of prompts for each image.

        Args:
            embedding: the image embedding, (B, C, grid, grid, grid).
            image_pe: the position encoding of its tokens, (1, C, grid, grid, grid).
            sparse_BTC: the prompt tokens, (B, T, C); T may be 0.
            dense: the embedding of the mask prompt, (B, C, grid, grid, grid).

        Returns:
            The logits of all heads, (B, 4, L, L, L), and their IoU as the network guesses it, (B, 4). Only head 0
            was trained in the published weights; neither choose by the others nor show the IoU.
        """
        own_TC = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens_BTC = torch.cat([own_TC.expand(len(embedding), -1, -1), sparse_BTC], dim=1)
        image_BIC = (embedding + dense).flatten(2).transpose(1, 2)
        tokens_BTC, image_BIC = self.transformer(tokens_BTC, image_BIC, image_pe.flatten(2).transpose(1, 2))
        upscaled: Tensor = self.output_upscaling(image_BIC.transpose(1, 2).reshape(embedding.shape))
        kernels_BMC = torch.stack(
            [mlp(tokens_BTC[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        logits_BMV = kernels_BMC @ upscaled.flatten(2)
        return logits_BMV.reshape(-1, MASKS, *upscaled.shape[2:]), self.iou_prediction_head(tokens_BTC[:, 0])
