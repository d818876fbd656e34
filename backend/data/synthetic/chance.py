"""Seeded random numbers, and the smooth random fields that everything synthetic is made of."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Thing = TypeVar("Thing")

# Mean over a cell of the sum of squared weights of a cubic B-spline: what it leaves of the variance an axis.
SPLINE_SHRINKS = 151 / 315


def multiply_axis(field: Tensor, matrix_NM: Tensor, axis: int) -> Tensor:
    """Multiply one of the last three axes of a field, M long, by a matrix: it is N long then."""
    if axis == 2:
        return field @ matrix_NM.T
    if axis == 1:
        return matrix_NM @ field
    x, y, z = field.shape[-3:]
    return (matrix_NM @ field.reshape(-1, x, y * z)).reshape(*field.shape[:-3], len(matrix_NM), y, z)


def blur(image: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Gaussian blur of a cube (S, S, S) with one width an axis, in voxels, by what lies inside of it."""
    for axis, sigma in enumerate(sigmas):
        if sigma >= 0.3:
            image = multiply_axis(image, _gaussian(len(image), sigma, image.device), axis)
    return image


def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    """Weights (size, size) of a Gaussian around each voxel."""
    at = torch.arange(size, device=device)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


class Chance:
    """The random numbers of one volume: scalars, and fields of (X, Y, Z) on a device.

    Args:
        seed: the same seed gives the same volume on the same kind of device, to rounding.
        device: where fields are made.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._scalars = torch.Generator().manual_seed(seed)
        self._fields = torch.Generator(device).manual_seed(seed + 1)

    def uniform(self, low: float, high: float) -> float:
        """A number from low to high."""
        return low + (high - low) * float(torch.rand((), generator=self._scalars))

    def log_uniform(self, low: float, high: float) -> float:
        """A number from low to high, each factor as likely as any other."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._scalars))

    def one_of(self, things: Sequence[Thing]) -> Thing:
        """One of them, each as likely as any other."""
        return things[self.integer(0, len(things) - 1)]

    def maybe(self, probability: float) -> bool:
        """True that often."""
        return self.uniform(0, 1) < probability

    def vector(self, low: float, high: float, count: int = 3) -> Tensor:
        """Numbers from low to high, (count,), on the device."""
        return torch.tensor([self.uniform(low, high) for _ in range(count)], device=self.device)

    def rotation(self, tilt: float | None = None) -> Tensor:
        """A random rotation, 3x3, on the device; with a small `tilt`, by about that much (radians) around each axis."""
        drawn = torch.randn(3, 3, generator=self._scalars)
        matrix, triangle = torch.linalg.qr(drawn if tilt is None else torch.eye(3) + tilt * drawn)
        matrix = matrix * torch.sign(torch.diagonal(triangle))  # else LAPACK's own signs, not chance, turn axes around
        matrix[:, 0] *= torch.sign(torch.linalg.det(matrix))
        rotation: Tensor = matrix.to(self.device)
        return rotation

    def noise(self, size: int, channels: int = 1) -> Tensor:
        """White noise of variance 1, (channels, size, size, size)."""
        return torch.randn((channels, size, size, size), generator=self._fields, device=self.device)

    def smooth(self, size: int, knots: float, channels: int = 1) -> Tensor:
        """A smooth field of about variance 1 that turns about `knots` times along each axis, (channels, size^3)."""
        field = self.noise(math.ceil(knots) + 4, channels)
        for axis in range(3):
            field = multiply_axis(field, self._spline(size, knots, math.ceil(knots) + 4), axis)
        return field * float(SPLINE_SHRINKS**-1.5)

    def _spline(self, size: int, knots: float, count: int) -> Tensor:
        """Weights of `count` knots in each of `size` voxels, a cubic B-spline with a random shift."""
        at = 1 + self.uniform(0, 1) + torch.arange(size, device=self.device) * (knots / size)
        distance = (at[:, None] - torch.arange(count, device=self.device)).abs()
        inner = 2 / 3 - distance**2 + distance**3 / 2
        weights: Tensor = torch.where(distance < 1, inner, (2 - distance).clamp_min(0) ** 3 / 6)
        return weights
