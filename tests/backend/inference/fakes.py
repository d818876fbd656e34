"""Models that answer by a rule and record what they are asked, and volumes for them to look at."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from backend.inference.canvas import Canvas
from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.prompts import InitialMask, Prompt
from backend.inference.solver import Solver
from backend.inference.solvers import make_solver
from backend.volume import Affine, Volume

Floats = npt.NDArray[np.float32]
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@dataclass(eq=False)
class Call:
    """What `decode` was given, in crop voxels, and then what it answered."""

    embedding: Floats
    points: Floats
    labels: list[int]
    previous: Floats
    logits: Floats = field(init=False)


class FakeModel(ABC):
    """The recording half of a model; `answer` is the other. The embedding is the crop, each cell its mean."""

    def __init__(self, image_size: int = 32, logits_size: int = 16, *, supports_boxes: bool = False) -> None:
        self.image_size = image_size
        self.logits_size = logits_size
        self.supports_boxes = supports_boxes
        self.all_clicks = self.any_spacing = False
        self.walk_share = 0.0
        self.embedded = 0
        self.calls: list[Call] = []

    def to(self, device: torch.device) -> object:
        return device

    def embed(self, image: Tensor) -> Tensor:
        assert image.shape == (1, 1, *(self.image_size,) * 3)
        self.embedded += 1
        return functional.avg_pool3d(image, self.image_size // self.logits_size)

    def decode(self, embedding: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        assert mask_logits.shape == (1, 1, *(self.logits_size,) * 3)
        assert points.shape == (1, labels.shape[1], 3)
        previous = mask_logits[0, 0].numpy().copy()
        call = Call(embedding[0, 0].numpy(), points[0].numpy().copy(), labels[0].tolist(), previous)
        call.logits = self.answer(call)
        self.calls.append(call)
        return torch.from_numpy(call.logits.copy())[None, None]

    @abstractmethod
    def answer(self, call: Call) -> Floats:
        """Logits (L, L, L) for one call."""

    def cell_centres(self) -> Floats:
        """In crop voxels, (L, L, L, 3)."""
        stride = self.image_size / self.logits_size
        axis = (np.arange(self.logits_size, dtype=np.float32) + 0.5) * stride - 0.5
        return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


class Ball(FakeModel):
    """A ball of `radius` crop voxels around a positive click, added; around a negative one, taken away."""

    radius = 6.0

    def answer(self, call: Call) -> Floats:
        logits = call.previous if call.previous.any() else np.full_like(call.previous, -9)
        for point, label in zip(call.points, call.labels, strict=True):
            depth = (self.radius - np.linalg.norm(self.cell_centres() - point, axis=-1)).astype(np.float32)
            logits = np.minimum(logits, -depth) if label == 0 else np.maximum(logits, depth)
        return logits


class Bright(FakeModel):
    """All that is brighter than the mean of the crop, whatever the click."""

    def answer(self, call: Call) -> Floats:
        return 4 * call.embedding


class Everything(FakeModel):
    """An object without end."""

    def answer(self, call: Call) -> Floats:
        return np.ones_like(call.previous)


def solver(model: FakeModel, volume: Volume, *, extend: bool = False) -> Solver:
    return make_solver(Predictor(Engine(model, torch.device("cpu")), volume), extend)


def painted(solver: Solver, prompts: Iterable[Prompt]) -> npt.NDArray[np.bool_]:
    """The object of the prompts on the whole volume."""
    return shown(solver, solver.final(tuple(prompts)))


def seen_by_the_network(solver: Solver, mask: InitialMask) -> npt.NDArray[np.bool_]:
    """What is left of a mask in the logits that the next click begins from, on the whole volume."""
    return shown(solver, replace(solver.final((mask,)), given=None))


def shown(solver: Solver, canvas: Canvas) -> npt.NDArray[np.bool_]:
    """A canvas on the whole volume."""
    patch = solver.predictor.paint(canvas)
    mask = np.zeros(solver.predictor.volume.shape, dtype=bool)
    mask[patch.slices] = patch.mask
    return mask


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def noise(shape: tuple[int, int, int], affine: npt.ArrayLike | None = None) -> Volume:
    """Noise between 1 and 200, by default with voxels of the grid's own 1.5 mm."""
    values = np.random.default_rng(0).integers(1, 200, shape).astype(np.int16)
    return Volume(values, np.diag([1.5, 1.5, 1.5, 1]) if affine is None else np.asarray(affine))


def tilted_affine(orientation: tuple[tuple[int, ...], tuple[int, ...]], spacing: tuple[float, ...]) -> Affine:
    """An affine whose axes run near to the given ones with the given signs, turned, sheared and moved at random."""
    axes, signs = orientation
    rng = np.random.default_rng(ORIENTATIONS.index((axes, signs)))
    turn = Rotation.from_rotvec(rng.uniform(-0.2, 0.2, 3)).as_matrix()
    shear = np.eye(3) + np.triu(rng.uniform(-0.15, 0.15, (3, 3)), 1)
    directions = turn @ shear @ (np.eye(3)[:, axes] * signs)
    affine = np.eye(4)
    affine[:3, :3] = directions / np.linalg.norm(directions, axis=0) * spacing
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine
