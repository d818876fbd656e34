"""Weights of the 2D Segment Anything model made three-dimensional: a start for training (supplement, C.3).

Only the image encoder is taken. A slice is thought to lie across the z axis: the 2D model's columns run along x and its
rows along y. What z needs is copied from x.

Legend of shape suffixes: C channels of a token, O I channels of a convolution, H W rows and columns of the 2D model,
X Y Z the axes of the 3D network.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from backend.errors import ErrorCode, SamMed3DError
from backend.models.checkpoint import load_into
from backend.models.config import ModelConfig
from backend.models.image_encoder import ImageEncoder
from backend.models.sam_med3d import SamMed3D

# The names of Hugging Face's `SamModel`, which holds the same weights, as those of the original files.
_HUGGING_FACE = {
    r"^vision_encoder\.": "image_encoder.",
    r"patch_embed\.projection\.": "patch_embed.proj.",
    r"\.layers\.(\d+)\.": r".blocks.\1.",
    r"\.layer_norm(\d)\.(weight|bias)$": r".norm\1.\2",
    r"\.neck\.conv1\.": ".neck.0.",
    r"\.neck\.norm1\.": ".neck.1.",
    r"\.neck\.conv2\.": ".neck.2.",
    r"\.neck\.norm2\.": ".neck.3.",
}
_PREFIX = "image_encoder."
_NECK = "image_encoder.neck."


def inflate(model: SamMed3D, state: Mapping[str, Tensor], origin: str | Path) -> tuple[str, ...]:
    """Fill the image encoder of a network from a 2D SAM state dict; on a refusal the network stays as it was.

    A network may have more than `ImageEncoder` has, such as adapters; that stays as it is.

    Args:
        model: as wide and as deep as the 2D encoder, with the same patches.
        state: names and tensors of `sam_vit_b_01ec64.pth` and its like, or of Hugging Face's `SamModel`.
        origin: what to call the weights in a message.

    Returns:
        The entries of the image encoder that these weights cannot give, and that stay as they were: the neck, where
        it has another width (256 in 2D, 384 in the published 3D network).

    Raises:
        SamMed3DError: CHECKPOINT_MISMATCH, naming what is missing, unexpected or of another shape; CHECKPOINT_VALUES.
    """
    flat = _original_names(state)
    wanted = _encoder_names(model.config)
    kept = tuple(name for name in wanted if name.startswith(_NECK) and not _same_neck(flat, model.config))
    sources = {name: name.replace("rel_pos_d", "rel_pos_w") for name in wanted if name not in kept}
    inflated = {name: _inflate(name, flat[source], model.config) for name, source in sources.items() if source in flat}
    _check_all_taken(flat, {*sources.values(), *kept}, origin)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in sources}
    load_into(model, own | inflated, origin)
    return kept


def _check_all_taken(flat: Mapping[str, Tensor], taken: set[str], origin: str | Path) -> None:
    left = [name for name in flat if name.startswith(_PREFIX) and name not in taken]
    if left:
        raise SamMed3DError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"The weights of {origin} are not those of a 2D encoder of this depth: {len(left)} entries have no place "
            f"in it ({left[0]}, ...).",
            "Choose the 2D weights of the same size (ViT-B for vit_b_ori); for 3D weights, the start is another.",
        )


def _original_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith(_PREFIX) for name in state):
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _HUGGING_FACE.items():
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - one renaming after the other
        renamed[name] = tensor
    return renamed


def _encoder_names(config: ModelConfig) -> list[str]:
    with torch.device("meta"):
        return [_PREFIX + name for name in ImageEncoder(config).state_dict()]


def _same_neck(flat: Mapping[str, Tensor], config: ModelConfig) -> bool:
    first = flat.get(f"{_NECK}0.weight")
    return first is None or len(first) == config.prompt_width  # where there is none, it is missed by name


def _inflate(name: str, flat: Tensor, config: ModelConfig) -> Tensor:
    """The 3D form of a 2D entry; what is not as expected is left so, for its shape to be refused."""
    flat = flat.float()
    if name.endswith("patch_embed.proj.weight") and flat.ndim == 4:
        # Divided by the depth, so that a volume that does not change along z gives what its slice, as a grey image
        # of three equal colours, gives in 2D. The supplement repeats, and says nothing of dividing.
        kernel_CXY = flat.sum(1).transpose(1, 2)
        depth = config.patch_size
        return kernel_CXY[:, None, ..., None].expand(-1, -1, -1, -1, depth) / depth
    if name.endswith("pos_embed") and flat.ndim == 4:
        return _inflate_positions(flat, config.grid)
    if "rel_pos" in name and flat.ndim == 2:
        rows = 2 * (config.grid if _block(name) in config.global_blocks else config.window) - 1
        return functional.interpolate(flat.T[None], rows, mode="linear")[0].T
    if name.startswith(_NECK) and flat.ndim == 4:
        kernel_OIXY, depth = flat.transpose(2, 3), flat.shape[-1]
        return kernel_OIXY[..., None].expand(-1, -1, -1, -1, depth) / depth
    return flat


def _block(name: str) -> int:
    return int(name.split(".")[2])


def _inflate_positions(flat_1HWC: Tensor, grid: int) -> Tensor:
    """Absolute positions (1, H, W, C) to (1, X, Y, Z, C): the plane's, and along z what x adds to the plane's mean."""
    plane_1CXY = functional.interpolate(flat_1HWC.permute(0, 3, 2, 1), (grid, grid), mode="bilinear")
    line_1CZ = plane_1CXY.mean(3) - plane_1CXY.mean((2, 3))[..., None]
    return (plane_1CXY[..., None] + line_1CZ[:, :, None, None]).movedim(1, -1)
