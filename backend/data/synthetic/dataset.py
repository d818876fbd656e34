"""Synthetic volumes as a dataset that is made while it is read."""

from collections.abc import Iterable
from pathlib import Path

import torch

from backend.data.sample import Key, Sample, click_seed, sample_rng
from backend.data.synthetic.generator import generate
from backend.data.synthetic.label_maps import LabelMap, label_files, read_label_maps
from backend.errors import ErrorCode, SamMed3DError
from backend.inference.preprocess import normalise_quietly


class SyntheticDataset:
    """An endless source of samples, the same for a key to rounding; an epoch is `length` of them.

    Args:
        image_size: voxels an axis of a crop, even.
        length: samples an epoch.
        seed: of everything.
        labels: label-map files, or folders of them, to take shapes from beside the procedural ones.
        device: where volumes are made; on a GPU read it in the training process itself, without workers.
        start: how many epochs have crops of another size, and which.

    Raises:
        SamMed3DError: CONFIG_INVALID, odd sizes; as `label_files`, and from a sample as `read_label_maps`.
    """

    def __init__(
        self,
        image_size: int,
        length: int,
        seed: int,
        labels: Iterable[Path] = (),
        device: str = "cpu",
        *,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        for size in (image_size, start[1]):
            if size % 2:
                problem = f"There are no synthetic volumes of {size} voxels an axis."
                raise SamMed3DError(ErrorCode.CONFIG_INVALID, problem, "Give an even number.")
        self.image_size = image_size
        self.seed = seed
        self._length = length
        self._start = start
        self._labels = tuple(labels)
        for path in self._labels:
            label_files(path)  # a misspelt one is noticed now, not by a worker once the run is begun
        self._device = torch.device(device)
        self._maps: list[list[LabelMap]] | None = None

    def __len__(self) -> int:
        """Samples an epoch."""
        return self._length

    def __getitem__(self, key: Key) -> Sample:
        """The sample of that key."""
        if self._maps is None:  # read by each worker for itself, and not before it is needed
            self._maps = read_label_maps(self._labels, self._device) if self._labels else []
        seed = int(sample_rng(self.seed, Key(*key)).integers(2**62))
        start_epochs, start_size = self._start
        size = start_size if key[0] < start_epochs else self.image_size
        image, mask, _ = generate(seed, size, self._device, self._maps)
        normalised = torch.from_numpy(normalise_quietly(image.cpu().numpy()))
        return Sample(normalised[None].to(self._device), mask[None], torch.tensor(click_seed(self.seed, Key(*key))))
