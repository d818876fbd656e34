"""Two small layers that the encoder, the prompt encoder and the decoder share."""

from torch import Tensor, nn


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
