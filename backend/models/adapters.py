"""A network whose encoder keeps its weights and learns through small 3D adapters (supplement, C.3; 3DSAM-Adapter)."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from backend.models.config import ModelConfig
from backend.models.image_encoder import EncoderBlock
from backend.models.sam_med3d import SamMed3D

BOTTLENECK = 64


def has_adapters(names: Iterable[str]) -> bool:
    """Whether these entries of a state dict are those of an `AdaptedSamMed3D`."""
    return any(".adapter." in name for name in names)


class Adapter(nn.Module):
    """Fewer channels, a depthwise convolution over the token grid, and back, added: (B, D, H, W, C), the same shape.

    Its last layer starts at zero, so that a new adapter changes nothing.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.mix = nn.Conv3d(bottleneck, bottleneck, 3, padding=1, groups=bottleneck)
        self.activation = nn.GELU()
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Add what the neighbourhood of each token says."""
        mixed_BCDHW: Tensor = self.mix(self.down(x_BDHWC).movedim(-1, 1))
        change_BDHWC: Tensor = self.up(self.activation(mixed_BCDHW.movedim(1, -1)))
        return x_BDHWC + change_BDHWC


class AdaptedBlock(EncoderBlock):
    """An encoder block that sees its tokens through an adapter; its own parameters keep their names."""

    def __init__(self, config: ModelConfig, window: int, bottleneck: int) -> None:
        super().__init__(config, window)
        self.adapter = Adapter(config.width, bottleneck)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Adapt, then attend and map."""
        return super().forward(self.adapter(x_BDHWC))


class AdaptedSamMed3D(SamMed3D):
    """SAM-Med3D with an adapter before every block of the image encoder.

    Its state dict is that of `SamMed3D` and `image_encoder.blocks.N.adapter.*`. Of the image encoder only the adapters
    and the neck are trained.

    Args:
        config: the sizes of the network.
        bottleneck: channels within an adapter.
    """

    def __init__(self, config: ModelConfig, bottleneck: int = BOTTLENECK) -> None:
        super().__init__(config)
        windows = [cast(EncoderBlock, block).attn.window for block in self.image_encoder.blocks]
        self.image_encoder.blocks = nn.ModuleList(AdaptedBlock(config, window, bottleneck) for window in windows)
        self.untrained = (*type(self).untrained, *self._frozen_names())

    def _frozen_names(self) -> list[str]:
        """What is kept of the encoder as it is."""
        names = [name for name, _ in self.image_encoder.named_parameters()]
        return [f"image_encoder.{name}" for name in names if ".adapter." not in name and not name.startswith("neck.")]
