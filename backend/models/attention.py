"""Attention over a 3-D grid of tokens, cut into windows, as the published encoder does it but without its padding.

The published network pads every window with zero tokens up to `window` an axis and attends over the padding too.
All pad tokens share one key and one value (the qkv bias), so that here one extra key and value stand for them all,
with the log-sum-exp of their relative position biases as its bias. The result is the same, not an approximation.

Legend of shape suffixes:
    B batch, N heads, C channels, X channels of one head
    D H W   real tokens of a window, as queries
    P Q R   real tokens of a window, as keys, along the same three axes; S is Q and R flattened
    K       all `window` positions of an axis, real ones first, then padding
    L M     tokens of a window flattened: as queries, as keys
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Slices = tuple[slice, slice, slice]


class AxisBiases(NamedTuple):
    """The three terms of a window's relative position bias, (B, N, D, H, W, K) and twice (B, N, D, H, K, K)."""

    a: Tensor
    b: Tensor
    c: Tensor


def cut_windows(grid: tuple[int, int, int], window: int) -> Iterator[Slices]:
    """Yield the slices that cut a grid into windows of at most `window` tokens an axis, the last ones smaller."""
    d, h, w = ([slice(start, min(start + window, size)) for start in range(0, size, window)] for size in grid)
    yield from product(d, h, w)


def axis_biases(q_BNDHWX: Tensor, pad_q_NX: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> AxisBiases:
    """Return the terms of the bias of query (d,h,w) towards key (d',h',w'), which is A + B + C.

    A[d,h,w,w'] = q(d,h,w).Rd[d-w'], B[d,h,d',w'] = q(d,h,w=d').Rh[h-w'] and C[d,h,h',w'] = q(d,h,w=h').Rw[h'-w'],
    where a q beyond the real tokens is that of a pad token (`pad_q_NX`), q is unscaled, and R[0] is the middle row
    of its table of shape (2 * window - 1, X).
    """
    table_d, table_h, table_w = tables
    window = (len(table_d) + 1) // 2
    depth, height, width, _ = q_BNDHWX.shape[2:]
    pad_q_NDHWX = pad_q_NX[:, None, None, None].expand(-1, depth, height, window - width, -1)
    q_BNDHKX = torch.cat([q_BNDHWX, pad_q_NDHWX.expand(len(q_BNDHWX), -1, -1, -1, -1, -1)], dim=4)
    # Quirk 1 kept for compatibility: the three terms are added with mixed axes, by their place and not by their name.
    return AxisBiases(
        torch.einsum("bndhwx,dkx->bndhwk", q_BNDHWX, _relative(table_d, depth, window)),
        torch.einsum("bndhex,hkx->bndhek", q_BNDHKX, _relative(table_h, height, window)),
        torch.einsum("bndhex,ekx->bndhek", q_BNDHKX, _relative(table_w, window, window)),
    )


def _relative(table: Tensor, queries: int, window: int) -> Tensor:
    """Return the rows R[query - key] of a relative position table, (queries, window, X)."""
    query = torch.arange(queries, device=table.device)[:, None]
    key = torch.arange(window, device=table.device)
    return table[query - key + window - 1]


def real_bias(biases: AxisBiases, real: tuple[int, int, int]) -> Tensor:
    """Return the bias of the real queries of a window towards its real keys, (B, N, L, M)."""
    depth, height, width = real
    # The last two key axes are flattened before the large sum, which is faster over long rows.
    a_BNDHWS = biases.a[..., None, :width].expand(-1, -1, -1, -1, -1, height, -1).flatten(5)
    bc_BNDHPQR = biases.b[..., :depth, None, :width] + biases.c[..., None, :height, :width]
    bias_BNDHWPS = a_BNDHWS[..., None, :] + bc_BNDHPQR.flatten(5)[:, :, :, :, None]
    return bias_BNDHWPS.flatten(5).flatten(2, 4)


def pad_bias(biases: AxisBiases, real: tuple[int, int, int]) -> Tensor:
    """Return the log-sum-exp of the biases towards all pad keys of a window that has some, (B, N, L, 1).

    A pad key is one with w' beyond the real ones; or else d' beyond them; or else h' beyond them. In each of the
    three sets B and C vary over axes of their own, d' and h', so that their sums of exponentials multiply.
    """
    a_BNDHWK, b_BNDHKK, c_BNDHKK = biases
    depth, height, width = real
    window = a_BNDHWK.shape[-1]
    all_h_BNDHK = c_BNDHKK.logsumexp(-2)
    beyond_w = (b_BNDHKK.logsumexp(-2) + all_h_BNDHK)[..., width:]
    parts = [a_BNDHWK[..., width:] + beyond_w[..., None, :]]
    if depth < window:
        beyond_d = (b_BNDHKK[..., depth:, :].logsumexp(-2) + all_h_BNDHK)[..., :width]
        parts.append(a_BNDHWK[..., :width] + beyond_d[..., None, :])
    if height < window:
        beyond_h = b_BNDHKK[..., :depth, :width].logsumexp(-2) + c_BNDHKK[..., height:, :width].logsumexp(-2)
        parts.append(a_BNDHWK[..., :width] + beyond_h[..., None, :])
    return torch.cat(parts, dim=-1).logsumexp(-1, keepdim=True).flatten(2, 4)


class WindowAttention(nn.Module):
    """Multi-head attention within windows of a token grid, with decomposed relative position biases.

    The scheme is that of ViTDet and SAM in three dimensions (SAM-Med3D paper, section 3.2). A `window` of the size
    of the grid makes it global.

    Args:
        width: channels of a token.
        heads: number of heads, a divisor of `width`.
        window: tokens an axis of a window.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_d = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // heads))

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Attend within each window of a grid of any size, (B, D, H, W, C) -> (B, D, H, W, C)."""
        qkv_BDHW3NX: Tensor = self.qkv(x_BDHWC).unflatten(-1, (3, self.heads, -1))
        out_BDHWNX = torch.empty_like(qkv_BDHW3NX[..., 0, :, :])
        depth, height, width = x_BDHWC.shape[1:4]
        for cut in cut_windows((depth, height, width), self.window):
            out_BDHWNX[:, *cut] = self._attend(qkv_BDHW3NX[:, *cut])
        y_BDHWC: Tensor = self.proj(out_BDHWNX.flatten(4))
        return y_BDHWC

    def _attend(self, qkv_BDHW3NX: Tensor) -> Tensor:
        """Attend within one window, whose padding is left out: (B, D, H, W, 3, N, X) -> (B, D, H, W, N, X)."""
        depth, height, width = qkv_BDHW3NX.shape[1:4]
        real = depth, height, width
        q_BNDHWX, k_BNDHWX, v_BNDHWX = qkv_BDHW3NX.permute(4, 0, 5, 1, 2, 3, 6).unbind()
        # Quirk 2 kept for compatibility: the padding is not masked; each pad token's q, k and v are the qkv bias.
        pad_3NX = self.qkv.bias.to(q_BNDHWX.dtype).view(3, self.heads, -1)
        biases = axis_biases(q_BNDHWX, pad_3NX[0], (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w))
        bias_BNLM = real_bias(biases, real)
        k_BNMX, v_BNMX = k_BNDHWX.flatten(2, 4), v_BNDHWX.flatten(2, 4)
        if min(real) < self.window:
            bias_BNLM = torch.cat([bias_BNLM, pad_bias(biases, real)], dim=-1)
            k_BNMX, v_BNMX = _append(k_BNMX, pad_3NX[1]), _append(v_BNMX, pad_3NX[2])
        q_BNLX = q_BNDHWX.flatten(2, 4)
        y_BNLX = functional.scaled_dot_product_attention(q_BNLX, k_BNMX, v_BNMX, attn_mask=bias_BNLM)
        return y_BNLX.transpose(1, 2).reshape(-1, *real, *pad_3NX.shape[1:])


def _append(x_BNMX: Tensor, last_NX: Tensor) -> Tensor:
    """Append one token to each sequence."""
    return torch.cat([x_BNMX, last_NX[:, None].expand(len(x_BNMX), -1, -1, -1)], dim=2)
