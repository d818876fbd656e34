"""Procedural anatomy: a label map of smooth regions with compact, tubular, hollow and lobed objects in them.

Every object is a field over coordinates in which it lies within about (-1, 1)^3: negative inside, positive outside.
Fields are smooth, so they are computed at half the resolution and interpolated, which is six times cheaper.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from backend.data.synthetic.chance import Chance, blur, multiply_axis

Field = Callable[[Tensor, Chance], Tensor]
AIR = 0


def scene(size: int, chance: Chance, objects: tuple[int, int] = (3, 9)) -> Tensor:
    """A label map (size, size, size), uint8: 0 air around a body, then the body's regions, then objects in them.

    The last object lies near the middle, in front of the others.
    """
    coordinates = _warped(size, chance)
    labels = _regions(size, chance)
    if chance.maybe(0.4):
        centre, radii = chance.vector(-0.3, 0.3), chance.vector(0.6, 1.4)
        body = _ball((coordinates - centre.view(3, 1, 1, 1)) / radii.view(3, 1, 1, 1), chance)
        labels[~_inside(body)] = AIR
    count = chance.integer(*objects)
    for index in range(count):
        last = index == count - 1
        inside = _inside(_placed(coordinates, chance, *((1.5, 0.35) if last else (0.8, 1.0))))
        labels = torch.where(inside, labels.max() + 1, labels)
    return labels


def add_lesions(labels: Tensor, chance: Chance) -> Tensor:
    """Put small objects into a region or into another object, each a label of its own."""
    there = torch.nonzero(torch.bincount(labels.flatten())[1:])
    if not len(there):
        return labels
    coordinates = _warped(len(labels), chance)
    host = 1 + there[chance.integer(0, len(there) - 1)]
    inside = torch.nonzero(labels == host)
    for _ in range(chance.integer(1, 3)):
        x, y, z = inside[chance.integer(0, len(inside) - 1)] // 2  # coordinates are of cells of 2^3 voxels
        at = coordinates[:, x, y, z]
        radius = chance.log_uniform(max(0.06, 4 / len(labels)), 0.3)  # of less than a cell, no voxel would be left
        lesion = _inside(_lump((coordinates - at.view(3, 1, 1, 1)) / radius, chance))
        labels = torch.where(lesion & (labels == host), labels.max() + 1, labels)
    return labels


def add_parts(labels: Tensor, whole: int, chance: Chance) -> tuple[Tensor, int]:
    """Give an object a rim (cortical bone, the wall of an organ) or parts inside (chambers, a necrotic core).

    Every part is a label of its own, from `labels.max() + 1` on. With the labels comes the one that the object ends
    with on the outside.
    """
    inside = labels == whole
    if chance.maybe(0.5):
        depth = blur(inside.float(), 3 * (chance.uniform(0.8, 2.5),))
        outer = inside & (depth < chance.uniform(0.65, 0.85))
        rim = int(labels.max()) + 1 if outer.any() else whole
        return labels.masked_fill(outer, rim), rim
    fields = chance.smooth(len(labels), chance.log_uniform(3, 10), channels=chance.integer(1, 2))
    for field in fields:
        labels = torch.where(inside & (field > chance.uniform(0.2, 1)), labels.max() + 1, labels)
    return labels, whole


def add_gap(labels: Tensor, whole: int) -> Tensor:
    """Part an object from what is around it by a layer of one voxel (fat between organs, a capsule).

    Its label is `whole - 1`, so that no new one comes behind the object's.
    """
    inside = labels == whole
    layer = (blur(inside.float(), (0.7, 0.7, 0.7)) > 0.1) & ~inside  # beside a flat side the first voxel has 0.22
    return labels.masked_fill(layer, whole - 1)


def grid(size: int, device: torch.device) -> Tensor:
    """Coordinates of the voxels, (3, size, size, size), from -1 to 1."""
    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def _warped(size: int, chance: Chance) -> Tensor:
    """Coordinates of a volume's cells of 2^3 voxels, bent smoothly, so that nothing is exactly round or straight."""
    bend = chance.smooth(size // 2, chance.uniform(1.5, 4), channels=3)
    return grid(size // 2, chance.device) + chance.uniform(0.02, 0.15) * bend


def _inside(field: Tensor) -> Tensor:
    """The voxels at which a field on cells is negative."""
    return enlarge(field) < 0


def enlarge(field: Tensor) -> Tensor:
    """Twice the voxels along each axis, linear in between: as three products, far faster than `interpolate`."""
    eye = torch.eye(len(field), device=field.device)
    twice_NM = functional.interpolate(eye[None], scale_factor=2, mode="linear")[0].T
    for axis in range(3):
        field = multiply_axis(field, twice_NM, axis)
    return field


def _regions(size: int, chance: Chance) -> Tensor:
    """Smooth regions that fill the volume, labelled from 1 (as the label maps of SynthMorph)."""
    first, *others = chance.smooth(size, chance.log_uniform(1, 5), channels=chance.integer(1, 6))
    labels = torch.ones_like(first, dtype=torch.uint8)
    for label, field in enumerate(others, start=2):  # argmax would take thirty times as long
        labels.masked_fill_(field > first, label)
        first = torch.maximum(first, field)
    return labels


def _placed(coordinates: Tensor, chance: Chance, largest: float, reach: float) -> Tensor:
    """The field of one object of random kind, size up to `largest`, proportions and direction, centred in `reach`."""
    radius = chance.log_uniform(0.12, largest)
    radii = radius * torch.exp(chance.vector(-0.5, 0.5))
    centre = chance.vector(-reach, reach)
    local = torch.einsum("ij,jxyz->ixyz", chance.rotation(), coordinates - centre.view(3, 1, 1, 1))
    kind = KINDS[chance.integer(0, len(KINDS) - 1)]
    return kind(local / radii.view(3, 1, 1, 1), chance)


def _ball(at: Tensor, chance: Chance) -> Tensor:
    """From an octahedron with round faces to a box with round edges."""
    power = chance.uniform(1.4, 4)
    return at.abs().clamp_max(4).pow(power).sum(0) - 1


def _lump(at: Tensor, chance: Chance) -> Tensor:
    """A ball with an uneven surface."""
    rough = chance.smooth(at.shape[-1], chance.log_uniform(4, 16))[0]
    return at.square().sum(0).sqrt() - 1 + chance.uniform(0.05, 0.4) * rough


def _shell(at: Tensor, chance: Chance) -> Tensor:
    """The wall of a hollow organ."""
    return (at.square().sum(0).sqrt() - 0.85).abs() - chance.uniform(0.08, 0.2)


def _lobes(at: Tensor, chance: Chance) -> Tensor:
    """Balls that have grown together."""
    fields = []
    for _ in range(chance.integer(2, 4)):
        centre, radius = chance.vector(-0.7, 0.7), chance.uniform(0.35, 0.7)
        fields.append((at - centre.view(3, 1, 1, 1)).square().sum(0) - radius**2)
    return torch.stack(fields).amin(0)


def _bite(at: Tensor, chance: Chance) -> Tensor:
    """A ball out of which another is cut: a crescent or a cup."""
    centre = functional.normalize(chance.vector(-1, 1), dim=0) * chance.uniform(0.5, 0.9)
    bite = (at - centre.view(3, 1, 1, 1)).square().sum(0) - chance.uniform(0.5, 0.9) ** 2
    return torch.maximum(at.square().sum(0) - 1, -bite)


def _tubes(at: Tensor, chance: Chance) -> Tensor:
    """One to three bent tubes through a common point."""
    start, thickness = chance.vector(-0.3, 0.3), chance.log_uniform(0.08, 0.3)
    nearest = torch.full_like(at[0], torch.inf)
    for _ in range(chance.integer(1, 3)):
        middle, end = chance.vector(-1, 1), chance.vector(-1.3, 1.3)
        for t in torch.linspace(0, 1, 12).tolist():
            point = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
            nearest = torch.minimum(nearest, (at - point.view(3, 1, 1, 1)).square().sum(0))
    return nearest.sqrt() - thickness


def _sheet(at: Tensor, chance: Chance) -> Tensor:
    """A bounded, bent plate."""
    bent = at[2] - chance.uniform(-0.6, 0.6) * at[0].square() - chance.uniform(-0.6, 0.6) * at[1].square()
    return torch.maximum(bent.abs() - chance.uniform(0.1, 0.25), at[:2].square().sum(0) - 1)


KINDS: tuple[Field, ...] = (_ball, _ball, _lump, _lump, _shell, _lobes, _lobes, _bite, _tubes, _tubes, _sheet)
"""Kinds of object, each as likely as it is often here."""
