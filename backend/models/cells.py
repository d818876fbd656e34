"""Cells of 2^3 voxels: maps at full resolution as they are stored cell by cell, for layers that look at whole cells.

Legend of shape suffixes: B batch, C channels, I voxels of a cell, X Y Z cells an axis, V cells.
"""

from torch import Tensor, nn
from torch.nn import functional

# Voxels an axis of a cell.
CELL = 2
VOXELS = CELL**3


def cells_of(points: Tensor, cells: int, voxels: int = CELL) -> Tensor:
    """Which of cells^3 cells, counted in the order of memory, points (B, N, 3) lie in: (B, N).

    A cell has `voxels` voxels an axis; points beyond the image count to the nearest.
    """
    x, y, z = (points / voxels).floor().long().clamp(0, cells - 1).unbind(-1)
    return (x * cells + y) * cells + z


def fold(maps: Tensor) -> Tensor:
    """The voxels of each cell one behind the other: (B, C, 2 X, 2 Y, 2 Z) -> (B, C, 8, X, Y, Z)."""
    batch, channels, x, y, z = (side // CELL if axis > 1 else side for axis, side in enumerate(maps.shape))
    cells = maps.reshape(batch, channels, x, CELL, y, CELL, z, CELL)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels, VOXELS, x, y, z)


def unfold(cells_BCIXYZ: Tensor) -> Tensor:
    """The other way: (B, C, 8, X, Y, Z) -> (B, C, 2 X, 2 Y, 2 Z)."""
    batch, channels, _, x, y, z = cells_BCIXYZ.shape
    cells = cells_BCIXYZ.reshape(batch, channels, CELL, CELL, CELL, x, y, z)
    return cells.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, CELL * x, CELL * y, CELL * z)


def convolve_cells(layer: nn.Conv3d, x_BCXYZ: Tensor) -> Tensor:
    """What a convolution that looks at one cell at a time gives, in the memory order "channels last".

    The input may be folded, (B, C 8, X, Y, Z), for a convolution whose kernel and stride are a cell. In that order sums
    with the network's features take half the time that they take with the order of torch's own convolution.
    """
    y_BVC = functional.linear(x_BCXYZ.flatten(2).transpose(1, 2), layer.weight.flatten(1), layer.bias)
    return y_BVC.transpose(1, 2).reshape(len(y_BVC), -1, *x_BCXYZ.shape[2:])


def upscale_cells(layer: nn.ConvTranspose3d, x_BCXYZ: Tensor) -> Tensor:
    """What a transposed convolution whose kernel and stride are a cell gives, in the memory order "channels last"."""
    batch, _, x, y, z = x_BCXYZ.shape
    rows_BVK = x_BCXYZ.flatten(2).transpose(1, 2) @ layer.weight.movedim(1, -1).flatten(1)
    cells = rows_BVK.reshape(batch, x, y, z, CELL, CELL, CELL, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    upscaled = cells.reshape(batch, CELL * x, CELL * y, CELL * z, -1)
    return (upscaled if layer.bias is None else upscaled + layer.bias).movedim(-1, 1)
