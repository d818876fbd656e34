"""Small layers that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm3d(nn.LayerNorm):
    """Layer normalisation over the channels of every voxel: (B, C, D, H, W) -> (B, C, D, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """Normalise each voxel over dimension 1."""
        return super().forward(x_BCDHW.movedim(1, -1)).movedim(-1, 1)


class Mlp(nn.Module):
    """Two linear layers with an activation between them: (..., C) -> (..., C)."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension through the hidden width and back."""
        y: Tensor = self.lin2(self.activation(self.lin1(x)))
        return y


def upsample(logits: Tensor, size: int) -> Tensor:
    """Trilinear interpolation of (B, 1, L, L, L) to (B, 1, S, S, S), as `functional.interpolate` does it.

    But by three products with the matrix of one axis: the backward pass of torch's own is ten times slower on a CPU,
    and on a GPU it is not reproducible.
    """
    unit_LL = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    weights_LS = functional.interpolate(unit_LL[None], size, mode="linear")[0]
    return torch.einsum("bcijk,ix,jy,kz->bcxyz", logits, weights_LS, weights_LS, weights_LS)
