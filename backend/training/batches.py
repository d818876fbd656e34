"""Batches of samples, loaded by processes that live as long as the run."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from backend.data.sample import Key, Sample, SampleDataset
from backend.errors import ErrorCode, SamMed3DError
from backend.training.processes import process_context

Group = tuple[Key, ...]


class _SplitKey(NamedTuple):
    """A key of one of the two datasets, which share the processes."""

    held_out: bool
    key: Key


class _Splits(Dataset[Sample | SamMed3DError]):
    """Both datasets as one. An error is given as a value: DataLoader would make another one of it."""

    def __init__(self, train: SampleDataset, held_out: SampleDataset | None) -> None:
        self._train = train
        self._held_out = held_out

    def __getitem__(self, key: _SplitKey) -> Sample | SamMed3DError:
        dataset = self._held_out if key.held_out else self._train
        if dataset is None:
            raise IndexError(key)
        try:
            return dataset[key.key]
        except SamMed3DError as error:
            return error


class _Groups:
    """The batch sampler: the groups of whatever is loaded next."""

    def __init__(self) -> None:
        self.now: list[list[_SplitKey]] = []

    def __iter__(self) -> Iterator[list[_SplitKey]]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


class Batches:
    """Samples of both datasets, in batches on a device.

    Args:
        train: addressed by epoch and index.
        held_out: for validation, or None.
        workers: processes; 0 loads in this one.
        device: where the tensors go.
    """

    def __init__(
        self, train: SampleDataset, held_out: SampleDataset | None, workers: int, device: torch.device
    ) -> None:
        self.held_out = 0 if held_out is None else len(held_out)
        self._device = device
        self._groups = _Groups()
        self._loader: DataLoader[Sample | SamMed3DError] = DataLoader(
            _Splits(train, held_out),
            batch_sampler=self._groups,
            num_workers=workers,
            collate_fn=_collate,
            # What this process loads may be on the GPU already: synthetic volumes are made there.
            pin_memory=device.type == "cuda" and workers > 0,
            worker_init_fn=_init_worker,
            multiprocessing_context=process_context() if workers else None,
            persistent_workers=workers > 0,
        )

    def close(self) -> None:
        """End the processes: they do not heed the signal by which the interpreter would end them at its own end."""
        workers = getattr(self._loader, "_iterator", None)  # DataLoader ends them only once nothing refers to it
        if workers is not None:
            workers._shutdown_workers()

    def training(self, groups: Sequence[Group]) -> Iterator[Sample]:
        """The batches of those groups of training samples, in their order."""
        return self._load(groups, held_out=False)

    def validation(self, groups: Sequence[Group]) -> Iterator[Sample]:
        """The batches of those groups of held-out samples, in their order."""
        return self._load(groups, held_out=True)

    def _load(self, groups: Sequence[Group], held_out: bool) -> Iterator[Sample]:
        """Raises SamMed3DError: of the dataset; TRAINING_RANK, a process died handing a sample over."""
        self._groups.now = [[_SplitKey(held_out, key) for key in group] for group in groups]
        loaded: Iterator[Any] = iter(self._loader)
        while True:
            try:
                batch = next(loaded, None)
            except (EOFError, ConnectionError) as error:
                raise _died(error) from error
            if batch is None:
                return
            if isinstance(batch, SamMed3DError):
                raise batch
            yield Sample(*(tensor.to(self._device, non_blocking=True) for tensor in batch))


@contextmanager
def deaths_told() -> Iterator[None]:
    """Say that a process that loads samples died: torch raises it wherever the main process is, when it hears of it.

    Raises:
        SamMed3DError: TRAINING_RANK, one died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _died(error) from error


def _died(error: Exception) -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.TRAINING_RANK,
        f"A process that loads samples died: {error}.",
        "Most often the memory ran out: lower data.workers.",
    )


def _collate(samples: list[Sample | SamMed3DError]) -> Sample | SamMed3DError:
    for sample in samples:
        if isinstance(sample, SamMed3DError):
            return sample
    batch: Sample = default_collate(samples)
    return batch


def _init_worker(_: int) -> None:
    """A request to stop is meant for the rank, which still needs its samples until the end of the step."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
