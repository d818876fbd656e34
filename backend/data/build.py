"""The datasets that a configuration asks for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backend.data.dataset import IndexDataset
from backend.data.index import IndexEntry, read_index
from backend.data.sample import Key, Sample, SampleDataset, click_seed
from backend.errors import ErrorCode, SamMed3DError
from backend.training.config import DataSection

# Validation takes its random numbers from another stream than training.
VALIDATION_STREAM = 1


@dataclass(frozen=True)
class Variants:
    """A dataset that repeats its crops after `count` epochs, with new clicks in every one.

    Attributes:
        base: what is repeated.
        count: different crops of a mask.
        seed: of the clicks.
    """

    base: SampleDataset
    count: int
    seed: int

    def __len__(self) -> int:
        """Samples an epoch."""
        return len(self.base)

    def __getitem__(self, key: Key) -> Sample:
        """The crop of the epoch modulo `count`, with the clicks of the epoch."""
        sample = self.base[Key(key.epoch % self.count, key.index)]
        return sample._replace(key=torch.tensor(click_seed(self.seed, key)))


@dataclass(frozen=True)
class Fixed:
    """A dataset that is the same in every epoch, crops and clicks.

    Attributes:
        base: what its first epoch is of.
    """

    base: SampleDataset

    def __len__(self) -> int:
        """Samples an epoch."""
        return len(self.base)

    def __getitem__(self, key: Key) -> Sample:
        """The sample of that index in the first epoch."""
        return self.base[Key(0, key.index)]


def build_datasets(
    config: DataSection, image_size: int, seed: int, device: torch.device
) -> tuple[SampleDataset, SampleDataset | None]:
    """The training dataset, and the validation dataset if there is any.

    Validation looks at held-out masks without augmentation (or at synthetic volumes of their own), at the same
    ones with the same clicks each time.

    Args:
        config: the table `data` of a run's configuration.
        image_size: of the network.
        seed: of the run.
        device: of the training process, which makes its synthetic volumes there if it is a CUDA device and has no
            workers.

    Raises:
        SamMed3DError: DATA_INDEX, if there is no index or no mask of the stage in its training split.
    """
    stream = int(np.random.SeedSequence((seed, VALIDATION_STREAM)).generate_state(1)[0])
    if config.source == "index":
        training, validation = _of_index(config, image_size, seed, stream)
    else:
        on_gpu = device.type == "cuda" and not config.workers  # worker processes would each need a context there
        training, validation = _synthetic(config, image_size, seed, stream, str(device) if on_gpu else "cpu")
    if config.variants:
        training = Variants(training, config.variants, seed)
    return training, None if validation is None else Fixed(validation)


def _of_index(
    config: DataSection, image_size: int, seed: int, stream: int
) -> tuple[SampleDataset, SampleDataset | None]:
    folder = _required(config.path)
    entries = [entry for entry in read_index(folder) if config.stage == "all" or getattr(entry, config.stage)]
    training = IndexDataset(
        folder,
        [entry for entry in entries if entry.split == "train"],
        image_size,
        seed,
        crop=config.crop,
        jitter=config.jitter,
        flips=config.flips,
        samples_per_epoch=config.samples_per_epoch,
    )
    held_out = _some([entry for entry in entries if entry.split == "validation"], config.validation_samples, stream)
    return training, IndexDataset(folder, held_out, image_size, stream, crop=config.crop) if held_out else None


def _required(path: Path | None) -> Path:
    if path is None:  # which the configuration does not allow
        raise SamMed3DError(ErrorCode.CONFIG_INVALID, "data.path is not set.", "Name a prepared folder.")
    return path


def _some(entries: list[IndexEntry], count: int, seed: int) -> list[IndexEntry]:
    """At most `count` of the entries, by chance, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(entries))[:count]
    return [entries[place] for place in sorted(chosen.tolist())]


def _synthetic(
    config: DataSection, image_size: int, seed: int, stream: int, device: str
) -> tuple[SampleDataset, SampleDataset | None]:
    from backend.data.synthetic.dataset import SyntheticDataset

    start = config.start_epochs, config.start_size
    length = config.samples_per_epoch or 0
    training = SyntheticDataset(image_size, length, seed, config.labels, device, start=start)
    if not config.validation_samples:
        return training, None
    # On the CPU: a GPU makes others, and the best weights are chosen among all validations.
    return training, SyntheticDataset(image_size, config.validation_samples, stream, config.labels)
