"""Starting the ranks: one process a GPU on this machine, or this process as torchrun's; and their end.

Whatever ends one rank ends all: the others notice a dead one by its closed connections and a hung one by the timeout
of their exchange with it, and where this process started them, it kills what is left.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # torch does not say that it exports them

from backend.cli import plain_warnings
from backend.device import choose_device, memory_told
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.training.config import NumericsSection, TrainConfig
from backend.training.loop import train
from backend.training.processes import process_context, when_parent_ends
from backend.training.stop import Stop
from backend.training.world import World

_GRACE_S = 5.0  # for the other ranks to end by themselves, with a message that may tell more
_REPORT_CHARACTERS = 10_000  # a pipe that nobody reads yet holds 64 KiB, and more would wait for a reader
_HOST = "127.0.0.1"
_INTERRUPTED = 128 + signal.SIGINT  # as shells say it
_ASKED_TO_END = {-signal.SIGTERM, -signal.SIGINT, _INTERRUPTED}


def launch(config: TrainConfig) -> None:
    """Train on all ranks, and return when they are done.

    Raises:
        SamMed3DError: of whichever rank failed first; TRAINING_RANK, one was killed or did not answer in time.
    """
    if in_torchrun():
        _train_as_member(config, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    elif (ranks := _local_ranks(config)) > 1:
        _train_in_children(config, ranks)
    else:
        with Stop(_tell).listening() as stop:
            _train_here(config, World(_device(config.numerics, 0)), stop)


def in_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def _tell() -> None:
    """Say that a request to stop was heard, so that nobody asks again, or kills, while the run is being saved."""
    # In a signal handler, where print could meet a print.
    os.write(2, b"stopping: the run is saved after this step, and goes on with the same command\n")


def _local_ranks(config: TrainConfig) -> int:
    """How many processes this machine gets: never two for one GPU. What is learned is the same with any number."""
    kind = choose_device(config.numerics.device).type
    most = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    if most is not None and config.run.ranks > most:
        message = f"run.ranks = {config.run.ranks}, and there are {most} of the kind {kind}: {most} is taken."
        warnings.warn(message, SamMed3DWarning, stacklevel=2)
        return most
    return config.run.ranks or most or 1


def _device(numerics: NumericsSection, local_rank: int) -> torch.device:
    device = choose_device(numerics.device)
    if device.type != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():  # of torchrun
        raise SamMed3DError(
            ErrorCode.DEVICE_UNAVAILABLE,
            f"There is no GPU for local rank {local_rank}, only {torch.cuda.device_count()}.",
            "Start torchrun with --nproc-per-node=gpu: a process for each of them.",
        )
    return torch.device(device.type, local_rank)


def _train_here(config: TrainConfig, world: World, stop: Stop) -> None:
    """One rank's whole life in this process."""
    _set_numerics(config, world)
    remedy = "Lower batch.micro_batch, or set numerics.checkpointing=true; the same command goes on."
    with memory_told(world.device, remedy):
        train(config, world, stop)


def _set_numerics(config: TrainConfig, world: World) -> None:
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        torch.backends.cudnn.benchmark = not config.numerics.deterministic
    if config.numerics.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)


def _train_as_member(config: TrainConfig, rank: int, ranks: int, local_rank: int, store: Store | None = None) -> None:
    """One rank of several: join the others, who meet at the store or as torchrun's environment says."""
    device = _device(config.numerics, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _told_apart(rank), Stop().listening() as stop:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank if store is not None else -1,
            world_size=ranks if store is not None else -1,
            timeout=timedelta(seconds=config.run.timeout_s),
        )
        _train_here(config, World(device, rank, ranks), stop)
        dist.destroy_process_group()


class _LostTouchError(SamMed3DError):
    """An exchange with the other ranks failed: the consequence of what happened to one of them."""


@contextmanager
def _told_apart(rank: int) -> Iterator[None]:
    """Tell failures of the exchange between ranks, for which each library has its own words, from other errors."""
    try:
        yield
    except RuntimeError as error:  # gloo has no type of its own, nor has DistributedDataParallel
        words = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "process group")
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in words):
            raise
        raise _LostTouchError(
            ErrorCode.TRAINING_RANK,
            f"Rank {rank} lost touch with another rank: {' '.join(str(error).split())[:300]}.",
            "See what ended the other one; if it was only slow, raise run.timeout_s. The same command goes on.",
        ) from error


@dataclass(frozen=True)
class _Report:
    """What a failed rank tells: an error, or the traceback of a defect."""

    rank: int
    when: float
    error: SamMed3DError | str


def _train_in_children(config: TrainConfig, ranks: int) -> None:
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    context = process_context()
    processes: list[BaseProcess] = []
    readers: list[Connection] = []

    def forward() -> None:
        _tell()
        for process in processes:
            process.terminate()

    with Stop(forward).listening() as stop:
        for rank in range(ranks):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(config, rank, ranks, store.port, writer))
            process.start()
            processes.append(process)
            readers.append(reader)
            writer.close()
        killed = _wait(processes)
    if not (stop.requested and any(process.exitcode in _ASKED_TO_END for process in processes)):
        _raise_first(processes, readers, killed)
    # Else one was asked before it listened, in its first seconds: there was nothing yet to save.


def _child(config: TrainConfig, rank: int, ranks: int, port: int, writer: "Connection") -> None:
    """A rank started by `launch`; it reports its failure."""
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    if not config.run.threads and choose_device(config.numerics.device).type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    try:
        with plain_warnings():
            _train_as_member(config, rank, ranks, rank, TCPStore(_HOST, port, is_master=False))
    except KeyboardInterrupt:  # before it listened
        sys.exit(_INTERRUPTED)
    except BaseException as error:  # whatever ends a rank, the launcher must hear of it
        told = error if isinstance(error, SamMed3DError) else traceback.format_exc()[-_REPORT_CHARACTERS:]
        writer.send(_Report(rank, time.time(), told))
        sys.exit(1)


def _wait(processes: list[BaseProcess]) -> set[int]:
    """Wait for the end of all processes; soon after one has failed, kill the others, and tell which."""
    running: dict[Any, BaseProcess] = {process.sentinel: process for process in processes}
    deadline, killed = float("inf"), set[int]()
    while running:
        left = deadline - time.monotonic()
        for sentinel in connection.wait(list(running), None if left == float("inf") else max(0.0, left)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode and deadline == float("inf"):
                deadline = time.monotonic() + _GRACE_S
        if time.monotonic() >= deadline:
            killed |= {processes.index(process) for process in running.values()}
            for process in running.values():
                process.kill()
            deadline = time.monotonic() + _GRACE_S
    return killed


def _raise_first(processes: list[BaseProcess], readers: list["Connection"], killed: set[int]) -> None:
    """Raise what went wrong first, if anything did: errors, else violent deaths, else what followed from either."""
    reports = sorted(filter(None, map(_received, readers)), key=lambda report: report.when)
    causes = [report for report in reports if not isinstance(report.error, _LostTouchError)]
    if causes and isinstance(causes[0].error, str):
        raise RuntimeError(f"Rank {causes[0].rank} failed:\n{causes[0].error}")
    ours = killed | {report.rank for report in reports}
    errors = [report.error for report in causes] or _deaths(processes, ours) or [report.error for report in reports]
    for error in errors:
        assert isinstance(error, SamMed3DError)
        raise error


def _received(reader: Connection) -> _Report | None:
    try:
        report: _Report = reader.recv()
    except EOFError:  # nothing to report, or no time to
        return None
    return report


def _deaths(processes: list[BaseProcess], ours: set[int]) -> list[SamMed3DError]:
    """An error for each rank that failed without a word, but for those that were killed here or did report."""
    return [
        SamMed3DError(
            ErrorCode.TRAINING_RANK,
            f"Rank {rank} was ended by {_ending(process.exitcode)}.",
            "If it was for want of memory, lower batch.micro_batch or data.workers. The same command goes on.",
        )
        for rank, process in enumerate(processes)
        if process.exitcode and rank not in ours
    ]


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"the signal {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"
