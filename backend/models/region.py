"""Region growing behind the interface of a network: what answers clicks where there are no weights.

It has learned nothing. Around a click it takes what is connected to it and about as bright. It stands in
until trained weights are given, and is the baseline that a network has to beat.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

Floats = npt.NDArray[np.float32]

# Half-width of the intensities that belong together: this many standard deviations around the click ...
SPREAD = 2.5
# ... but at least this, in units of the crop's normalised intensity.
MIN_TOLERANCE = 0.25
# A negative click takes away no further than this (cells), so that a leak can be cut off the object.
CUT_RADIUS = 6
CONFIDENT = 4.0


class Region(nn.Module):
    """Connected region of similar intensity, with cells of two voxels.

    The embedding is the smoothed crop, (B, 1, L, L, L) with L = `logits_size`.
    """

    image_size = 128
    logits_size = 64
    supports_boxes = False
    all_clicks = False
    any_spacing = False
    walk_share = 0.0

    def embed(self, image: Tensor) -> Tensor:
        """Embedding (B, 1, L, L, L) of images (B, 1, S, S, S): the mean of each cell."""
        return functional.avg_pool3d(image, self.image_size // self.logits_size)

    def decode(self, embedding: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits (B, 1, L, L, L) after points (B, N, 3) with labels (B, N), 1 on the object and 0 off it."""
        stride = self.image_size // self.logits_size
        before = mask_logits.cpu().numpy()
        out = np.where(before == 0, -CONFIDENT, before).astype(np.float32)  # 0 is undecided; here that is outside
        for sample, (image, sample_points, sample_labels) in enumerate(zip(embedding, points, labels, strict=True)):
            cells = torch.floor(sample_points / stride).long().clamp(0, self.logits_size - 1).tolist()
            for cell, label in zip(cells, sample_labels.tolist(), strict=True):
                update = _add if label == 1 else _cut
                out[sample, 0] = update(out[sample, 0], image[0].cpu().numpy(), tuple(cell))
        return torch.from_numpy(out).to(embedding.device)


def _add(logits: Floats, image: Floats, cell: tuple[int, ...]) -> Floats:
    return np.maximum(logits, _grow(image, cell))


def _cut(logits: Floats, image: Floats, cell: tuple[int, ...]) -> Floats:
    near = np.ones_like(image, dtype=bool)
    near[cell] = False
    reach = ndimage.distance_transform_edt(near) <= CUT_RADIUS
    return np.where(reach, np.minimum(logits, -_grow(image, cell)), logits)


def _grow(image: Floats, cell: tuple[int, ...]) -> Floats:
    """Logits, positive in the region of the cell: falling with the difference in intensity, negative elsewhere."""
    around = image[tuple(slice(max(0, c - 1), c + 2) for c in cell)]
    centre = float(np.median(around))
    tolerance = max(SPREAD * float(around.std()), MIN_TOLERANCE)
    logits = (CONFIDENT * (1 - np.abs(image - centre) / tolerance)).clip(-CONFIDENT, CONFIDENT).astype(np.float32)
    logits[cell] = max(logits[cell], 1.0)  # the clicked cell itself, even on an edge
    labels, _ = ndimage.label(logits > 0)
    grown: Floats = np.where((labels == labels[cell]) | (logits < 0), logits, -logits)
    return grown
