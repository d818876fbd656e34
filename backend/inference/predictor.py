"""Volume -> crop -> cached embedding -> logits -> mask on the volume's grid."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from backend.geometry import Index3, canonical_grid, extract_crop
from backend.inference.canvas import Canvas, Floats, MaskPatch
from backend.inference.engine import Engine
from backend.inference.preprocess import normalise
from backend.models.interface import Embedding
from backend.volume import Volume

# Voxel size that the published weights were trained with (mm).
SPACING_MM = 1.5
# One embedding of the full-size model takes 0.8 MB.
CACHED_EMBEDDINGS = 64


class Predictor:
    """One model looking at one volume; what it has seen of it is kept.

    Args:
        engine: the model and its device.
        volume: only windows of its array are read.
    """

    def __init__(self, engine: Engine, volume: Volume) -> None:
        self.engine = engine
        self.volume = volume
        self.grid = canonical_grid(volume, SPACING_MM)
        self._embeddings: OrderedDict[Index3, Embedding] = OrderedDict()

    @property
    def size(self) -> int:
        """Grid voxels of a crop along each axis."""
        return self.engine.model.image_size

    def canvas(self) -> Canvas:
        """An empty canvas for this model's logits."""
        return Canvas(self.size, self.engine.model.logits_size)

    def crop(self, start: Index3) -> Floats:
        """The normalised crop (size, size, size) whose first voxel is the grid's `start`."""
        return normalise(extract_crop(self.volume, self.grid, start, self.size))

    def embedding(self, start: Index3) -> Embedding:
        """The embedding of that crop; computed once."""
        if start not in self._embeddings:
            self._embeddings[start] = self.engine.embed(self.crop(start))
        self._embeddings.move_to_end(start)
        while len(self._embeddings) > CACHED_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        return self._embeddings[start]

    def has_embedding(self, start: Index3) -> bool:
        """Whether `embedding(start)` costs nothing."""
        return start in self._embeddings

    def centred(self, voxel: Index3) -> Index3:
        """The start of the crop that has a grid voxel in its middle."""
        x, y, z = (v - self.size // 2 for v in voxel)
        return x, y, z

    def decode(self, start: Index3, voxels: npt.ArrayLike, labels: npt.ArrayLike, previous: Floats) -> Floats:
        """Logits of the crop at `start` for prompts at grid voxels (N, 3) with labels (N,), after `previous` logits."""
        points = np.asarray(voxels) - np.array(start)
        return self.engine.decode(self.embedding(start), points, labels, previous)

    def paint(self, canvas: Canvas) -> MaskPatch:
        """The object on the volume's own grid."""
        return canvas.paint(self.grid)
