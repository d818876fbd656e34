"""The published, padded form of window attention: the oracle of the tests, the rival of benchmarks/encoder.py.

It pads the grid with zero tokens to whole windows, attends over all of them, and drops the padding afterwards.

Legend of shape suffixes: B batch, G windows of the whole batch, S heads of all windows (G times the heads),
W tokens an axis of a window, N tokens of a window (W * W * W), C channels, X channels of one head.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.models.attention import WindowAttention


class PaddedAttention(WindowAttention):
    """`WindowAttention` with the same parameters, computed over the padding."""

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        window, real = self.window, x_BDHWC.shape[1:4]
        counts = [-(-size // window) for size in real]
        pad = [count * window - size for count, size in zip(counts, real, strict=True)]
        x_BDHWC = functional.pad(x_BDHWC, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        y_GNC = self._attend_padded(cut(x_BDHWC, counts, window))
        return join(y_GNC, counts, window)[:, : real[0], : real[1], : real[2]]

    def _attend_padded(self, x_GNC: Tensor) -> Tensor:
        windows, tokens, _ = x_GNC.shape
        qkv = self.qkv(x_GNC).reshape(windows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q_SNX, k_SNX, v_SNX = qkv.flatten(1, 2)
        scores_SNN = (q_SNX * q_SNX.shape[-1] ** -0.5) @ k_SNX.transpose(1, 2)
        scores_SNN = self._add_bias(scores_SNN, q_SNX)
        y_SNX = scores_SNN.softmax(dim=-1) @ v_SNX
        y: Tensor = self.proj(y_SNX.unflatten(0, (windows, self.heads)).transpose(1, 2).flatten(2))
        return y

    def _add_bias(self, scores_SNN: Tensor, q_SNX: Tensor) -> Tensor:
        window = self.window
        q_SWWWX = q_SNX.unflatten(1, (window, window, window))
        steps = torch.arange(window)
        rows = steps[:, None] - steps + window - 1
        d_SWWWW = torch.einsum("sdhwx,dkx->sdhwk", q_SWWWX, self.rel_pos_d[rows])
        h_SWWWW = torch.einsum("sdhwx,hkx->sdhwk", q_SWWWX, self.rel_pos_h[rows])
        w_SWWWW = torch.einsum("sdhwx,wkx->sdhwk", q_SWWWX, self.rel_pos_w[rows])
        scores = scores_SNN.unflatten(2, (window, window, window)).unflatten(1, (window, window, window))
        scores = scores + d_SWWWW[:, :, :, :, None, None]
        scores = scores + h_SWWWW[:, :, :, None, :, None]
        scores = scores + w_SWWWW[:, :, :, None, None, :]
        return scores.flatten(4).flatten(1, 3)


def cut(x_BDHWC: Tensor, counts: list[int], window: int) -> Tensor:
    """Part a grid of whole windows into the tokens of each, (G, N, C)."""
    d, h, w = counts
    parted = x_BDHWC.reshape(len(x_BDHWC), d, window, h, window, w, window, -1)
    return parted.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def join(x_GNC: Tensor, counts: list[int], window: int) -> Tensor:
    """Undo `cut`."""
    parted = x_GNC.unflatten(1, (window, window, window)).unflatten(0, (-1, *counts))
    return parted.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


@contextmanager
def padded(module: nn.Module) -> Iterator[None]:
    """Let all window attention of a module be computed in the padded form meanwhile, with its own parameters."""
    layers = [layer for layer in module.modules() if type(layer) is WindowAttention]
    for layer in layers:
        layer.__class__ = PaddedAttention
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = WindowAttention
