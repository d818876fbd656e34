"""The image encoder as the backbone of MONAI's UNETR, for semantic segmentation (SAM-Med3D paper, table 6)."""

from torch import Tensor, nn

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import ModelConfig
from backend.models.image_encoder import ImageEncoder

# What UNETR is built for: voxels of a patch, and transformer blocks, of which it looks at 3, 6, 9 and the last.
PATCH_SIZE = 16
BLOCKS = 12


class Backbone(nn.Module):
    """An image encoder in the place of UNETR's vision transformer; its neck, which is for prompts, is left out.

    Where it has other than 12 blocks, those at the same share of its depth are looked at.

    Args:
        encoder: its weights are shared, not copied.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = encoder.blocks
        self.norm = nn.LayerNorm(encoder.pos_embed.shape[-1])  # as UNETR's own transformer ends

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, N, C) after the last block, and those after each of 12 places, of images (B, 1, S, S, S)."""
        x_BDHWC: Tensor = self.patch_embed(image) + self.pos_embed
        states = []
        for block in self.blocks:
            x_BDHWC = block(x_BDHWC)
            states.append(x_BDHWC.flatten(1, 3))
        places = [states[place * len(states) // BLOCKS] for place in range(BLOCKS)]
        return self.norm(states[-1]), places


def build_unetr(encoder: ImageEncoder, config: ModelConfig, channels: int, features: int) -> nn.Module:
    """MONAI's UNETR on an image encoder.

    Args:
        encoder: of a network of these sizes.
        config: the sizes.
        channels: of the output, one a class, the background included.
        features: channels of UNETR's decoder at full resolution.

    Returns:
        A module from images (B, 1, S, S, S) to logits (B, channels, S, S, S).

    Raises:
        SamMed3DError: CONFIG_INVALID, for another patch size than UNETR's.
    """
    from monai.networks.nets import UNETR  # late: it takes seconds

    if config.patch_size != PATCH_SIZE:
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"UNETR is built for patches of {PATCH_SIZE} voxels, and this image encoder has patches of "
            f"{config.patch_size}.",
            "Choose a network with that patch size, such as vit_b_ori.",
        )
    network: nn.Module = UNETR(
        in_channels=1,
        out_channels=channels,
        img_size=config.image_size,
        feature_size=features,
        hidden_size=config.width,
        mlp_dim=config.width,  # of the transformer that is replaced in the next line
        num_heads=config.heads,
    )
    network.vit = Backbone(encoder)
    return network
