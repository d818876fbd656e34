"""Weights and inputs that depend on nothing but names and sizes, so that two implementations can be compared.

The reference arrays were computed with them by the published code; the draws must not change.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float32]

UNIT_ENDINGS = ("token.weight", "tokens.weight", "_embed.weight", "gaussian_matrix")


def fill(key: str, shape: tuple[int, ...]) -> Array:
    """Draw the values of one state-dict entry, with a generator seeded by the CRC-32 of its name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    normal = generator.standard_normal(shape, dtype=np.float32)
    if key.endswith("bias"):
        return 0.1 * normal
    if len(shape) == 1:  # the weight of a normalisation layer
        return 1 + 0.1 * normal
    if "rel_pos" in key or "pos_embed" in key:
        return 0.2 * normal
    if "point_embeddings" in key or key.endswith(UNIT_ENDINGS):
        return normal
    return normal / np.float32(math.sqrt(math.prod(shape[1:])))  # a matrix or a kernel: by its fan-in


@torch.no_grad()
def fill_module(module: nn.Module) -> None:
    """Fill every entry of a module's state dict, in place."""
    for key, entry in module.state_dict().items():
        entry.copy_(torch.from_numpy(fill(key, tuple(entry.shape))))


def volume(size: int) -> Array:
    """Return a cubic volume of blobs and noise, about normal, (size, size, size)."""
    generator = np.random.Generator(np.random.PCG64(7))
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    positions = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    values = 0.3 * generator.standard_normal((size, size, size), dtype=np.float32)
    for _ in range(12):
        centre = generator.uniform(-0.8, 0.8, 3).astype(np.float32)
        radius, height = generator.uniform(0.1, 0.4), generator.uniform(-2, 2)
        squares = ((positions - centre[:, None, None, None]) ** 2).sum(axis=0)
        values += height * np.exp(-squares / (2 * radius**2)).astype(np.float32)
    return values
