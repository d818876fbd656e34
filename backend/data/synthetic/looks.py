"""Painting a label map as a scanner would see it: CT, MR, PET or ultrasound.

Values are in each modality's own manner (CT in Hounsfield units, the others from about 0 up), so that they go
through the same normalisation as real volumes.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from backend.data.synthetic.chance import Chance, blur
from backend.data.synthetic.shapes import AIR

Look = Literal["CT", "MR", "PET", "US"]

AIR_HU = -1000.0
LUNG, FAT, SOFT, CONTRAST, BONE = (-900.0, -650.0), (-120.0, -70.0), (0.0, 90.0), (90.0, 300.0), (200.0, 1200.0)
"""Ranges of Hounsfield units of tissues."""

LEAST_UNSEEN, MOST_UNSEEN = 0.05, 0.5
"""The share of an object's border that may be with a neighbour of the same brightness."""

UNSEEN_OFTEN = 0.4
"""How often an object has such a neighbour, if one can be."""


class Seen(NamedTuple):
    """What is painted, and what should be seen in it.

    Attributes:
        labels: (S, S, S) uint8.
        mask: (S, S, S) bool, the object, which may have several labels.
        label: the one that the object ends with.
    """

    labels: Tensor
    mask: Tensor
    label: int


Painter = Callable[[Seen, Chance], Tensor]


def choose_look(chance: Chance) -> Look:
    """The modality of a volume, in about the shares of real data sets."""
    draw = chance.uniform(0, 1)
    return "MR" if draw < 0.45 else "CT" if draw < 0.8 else "PET" if draw < 0.9 else "US"


def paint(seen: Seen, look: Look, chance: Chance) -> Tensor:
    """The image (S, S, S), float32, of a label map."""
    return PAINTERS[look](seen, chance)


def _textured(labels: Tensor, means: Tensor, spread: float, chance: Chance) -> Tensor:
    """Each label's mean (L,) plus a texture, whose strength, up to `spread` in the means' unit, is the label's own."""
    size, count = len(labels), len(means)
    index = labels.int()
    strengths = spread * chance.vector(0, 1, count) ** 2
    texture = (
        chance.smooth(size, chance.log_uniform(3, 10))[0] + chance.smooth(size, chance.log_uniform(8, size / 2))[0]
    )
    if chance.maybe(0.3):  # streaks of fat in muscle, folds, trabeculae: two tissues, not a gradual change
        texture = torch.tanh(4 * texture)
    return means[index] + strengths[index] * texture


def _neighbours_apart(seen: Seen, means: Tensor, least: float, lowest: float, chance: Chance) -> Tensor:
    """Move the mean of the label at least `least` from that of what is around the object, but not below `lowest`.

    At times one neighbour gets the same brightness. Where that is, the object's end cannot be seen, as that of a liver
    at the heart or at a muscle.
    """
    coarse, mask = seen.labels[::2, ::2, ::2], seen.mask[::2, ::2, ::2]
    inside = (coarse == seen.label)[None, None].float()
    ring = (functional.max_pool3d(inside, 3, stride=1, padding=1)[0, 0] > 0) & ~mask
    if not ring.any():
        return means
    neighbours = coarse[ring].int()
    around = means[neighbours].mean()
    if (means[seen.label] - around).abs() < least:
        darker = chance.maybe(0.5) and around - least >= lowest
        means[seen.label] = around + (-least if darker else least)
    shares = torch.bincount(neighbours, minlength=len(means)) / len(neighbours)
    unseen = torch.nonzero((shares > LEAST_UNSEEN) & (shares < MOST_UNSEEN))[:, 0]
    if len(unseen) and chance.maybe(UNSEEN_OFTEN):
        jitter = chance.uniform(-0.3, 0.3) * least
        means[unseen[chance.integer(0, len(unseen) - 1)]] = means[seen.label] + jitter
    return means


def _mr(seen: Seen, chance: Chance) -> Tensor:
    labels = seen.labels
    count = int(labels.max()) + 1
    means = chance.vector(0.05, 1, count)
    if chance.maybe(0.8):
        means[AIR] = chance.uniform(0, 0.05)
    means = _neighbours_apart(seen, means, chance.log_uniform(0.08, 0.5), 0, chance)
    image = _textured(labels, means, chance.uniform(0, 0.25), chance)
    image = _partial_volume(image, chance)
    image = image * torch.exp(chance.uniform(0, 0.4) * chance.smooth(len(labels), chance.uniform(0.5, 2))[0])
    sigma = chance.log_uniform(0.004, 0.06)
    # Rician: the magnitude of a signal with noise in both of its channels.
    real, imaginary = sigma * chance.noise(len(labels), 2)
    image = torch.hypot(image.clamp_min(0) + real, imaginary)
    return chance.log_uniform(50, 5000) * image ** chance.uniform(0.7, 1.4)


def _ct(seen: Seen, chance: Chance) -> Tensor:
    labels = seen.labels
    count = int(labels.max()) + 1
    means = torch.tensor([chance.uniform(*_tissue(chance)) for _ in range(count)], device=labels.device)
    if chance.maybe(0.8):
        means[AIR] = AIR_HU
    means = _neighbours_apart(seen, means, chance.log_uniform(15, 150), AIR_HU, chance)
    image = _partial_volume(_textured(labels, means, chance.uniform(0, 60), chance), chance)
    grain = chance.noise(len(labels))[0]
    smoothness = chance.uniform(0, 1.2)
    grain = blur(grain, (smoothness, smoothness, 0))
    image = image + chance.log_uniform(3, 40) * grain / grain.std()
    return image.clamp(-1024, 3000)


def _tissue(chance: Chance) -> tuple[float, float]:
    draw = chance.uniform(0, 1)
    return SOFT if draw < 0.5 else FAT if draw < 0.65 else CONTRAST if draw < 0.82 else BONE if draw < 0.93 else LUNG


def _pet(seen: Seen, chance: Chance) -> Tensor:
    labels = seen.labels
    count = int(labels.max()) + 1
    means = 0.3 * torch.exp(chance.vector(-1, 1.5, count))
    means[seen.label] = chance.log_uniform(2, 15)
    if count > 3 and chance.maybe(0.5):
        others = [label for label in range(1, count) if label != seen.label]
        means[chance.one_of(others)] = chance.log_uniform(1, 10)
    means[AIR] = chance.uniform(0, 0.05)
    image = _textured(labels, means, chance.uniform(0, 1), chance).clamp_min(0)
    width = chance.uniform(0.8, 2.0)
    image = blur(image, (width, width, width))
    noisy = image + chance.log_uniform(0.02, 0.2) * image.sqrt() * chance.noise(len(labels))[0]
    grain = chance.uniform(0.3, 0.8)
    return chance.log_uniform(1, 3000) * blur(noisy, (grain, grain, grain)).clamp_min(0)


def _us(seen: Seen, chance: Chance) -> Tensor:
    labels = seen.labels
    size = len(labels)
    means = chance.vector(0.05, 1, int(labels.max()) + 1)
    means = _neighbours_apart(seen, means, chance.log_uniform(0.15, 0.5), 0, chance)
    image = _partial_volume(_textured(labels, means, 0.2, chance), chance).clamp_min(0.01)
    depth = torch.linspace(0, 1, size, device=labels.device)[:, None, None]
    image = image * torch.exp(-chance.uniform(0, 1.5) * depth)
    # Speckle: the magnitude of many echoes, which the beam smears across more than along itself.
    beam = (chance.uniform(0.3, 0.7), chance.uniform(0.6, 1.5), chance.uniform(0.6, 1.5))
    real, imaginary = (blur(channel, beam) for channel in chance.noise(size, 2))
    speckle = torch.hypot(real, imaginary)
    image = image * (1 + chance.uniform(0.2, 0.8) * (speckle / speckle.mean() - 1))
    return 255 * image.clamp_min(0) ** chance.uniform(0.4, 0.8)


def _partial_volume(image: Tensor, chance: Chance) -> Tensor:
    """The blur of the scanner."""
    return blur(image, tuple(chance.uniform(0.3, 1.0) for _ in range(3)))  # type: ignore[arg-type]  # three of them


PAINTERS: dict[Look, Painter] = {"CT": _ct, "MR": _mr, "PET": _pet, "US": _us}
