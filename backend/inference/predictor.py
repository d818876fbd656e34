"""Volume -> crop -> cached embedding -> logits -> mask on the volume's grid."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from backend.geometry import Grid, Index3, canonical_grid, extract_crop, inside_grid
from backend.inference.canvas import Canvas, Floats, MaskPatch
from backend.inference.engine import Engine
from backend.inference.preprocess import normalise
from backend.models.interface import Embedding, bytes_of
from backend.volume import Volume

# Voxel size that the published weights were trained with (mm): level 0.
SPACING_MM = 1.5
# An embedding takes 0.8 MB of the full-size network and 10 MB of the compact one.
CACHED_BYTES = 200_000_000


class Predictor:
    """One model looking at one volume; what it has seen of it is kept.

    Args:
        engine: the model and its device.
        volume: only windows of its array are read.
    """

    def __init__(self, engine: Engine, volume: Volume) -> None:
        self.engine = engine
        self.volume = volume
        self._grids: dict[int, Grid] = {}
        self._embeddings: OrderedDict[tuple[int, Index3], Embedding] = OrderedDict()

    @property
    def grid(self) -> Grid:
        """The grid at 1.5 mm."""
        return self.grid_at(0)

    def grid_at(self, level: int) -> Grid:
        """The grid of a level; see `spacing_of`."""
        if level not in self._grids:
            # Where a slice is as thick as it says, compact has 0.62 after three clicks into single ones, else 0.50.
            thin = not self.engine.model.any_spacing
            self._grids[level] = canonical_grid(self.volume, spacing_of(level), thin=thin)
        return self._grids[level]

    @property
    def size(self) -> int:
        """Grid voxels of a crop along each axis."""
        return self.engine.model.image_size

    def canvas(self, level: int = 0) -> Canvas:
        """An empty canvas for this model's logits."""
        return Canvas(self.size, self.engine.model.logits_size, level=level)

    def read(self, start: Index3, level: int = 0) -> Floats:
        """The crop (size, size, size) whose first voxel is the `start` of a level's grid."""
        average = self.engine.model.any_spacing
        return extract_crop(self.volume, self.grid_at(level), start, self.size, average=average)

    def inside(self, start: Index3, level: int = 0) -> tuple[slice, slice, slice]:
        """Which part of that crop lies in the volume."""
        return inside_grid(self.grid_at(level), start, (self.size,) * 3)

    def crop(self, start: Index3, level: int = 0) -> Floats:
        """That crop, normalised."""
        return normalise(self.read(start, level))

    def embedding(self, start: Index3, level: int = 0) -> Embedding:
        """The embedding of that crop; computed once."""
        key = level, start
        if key not in self._embeddings:
            self._embeddings[key] = self.engine.embed(self.crop(start, level))
        self._embeddings.move_to_end(key)
        while len(self._embeddings) > 1 and sum(map(bytes_of, self._embeddings.values())) > CACHED_BYTES:
            self._embeddings.popitem(last=False)
        return self._embeddings[key]

    def has_embedding(self, start: Index3, level: int = 0) -> bool:
        """Whether `embedding(start, level)` costs nothing."""
        return (level, start) in self._embeddings

    def centred(self, voxel: Index3) -> Index3:
        """The start of the crop that has a grid voxel in its middle."""
        x, y, z = (v - self.size // 2 for v in voxel)
        return x, y, z

    def decode(
        self, start: Index3, voxels: npt.ArrayLike, labels: npt.ArrayLike, previous: Floats, level: int = 0
    ) -> Floats:
        """Logits of a crop for prompts at grid voxels (N, 3) with labels (N,), after `previous` logits of it."""
        points = np.asarray(voxels).reshape(-1, 3) - np.array(start)
        return self.engine.decode(self.embedding(start, level), points, labels, previous)

    def paint(self, canvas: Canvas) -> MaskPatch:
        """The object on the volume's own grid."""
        if canvas.given is not None:
            return canvas.given
        shown = canvas.finer or canvas
        return shown.paint(self.grid_at(shown.level))


def spacing_of(level: int) -> float:
    """The voxel size of a level's grid (mm): 1.5 at level 0, twice that two levels further."""
    return float(SPACING_MM * 2 ** (level / 2))
