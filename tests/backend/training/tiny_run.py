"""A whole run in small: the real network with a few thousand weights, on balls in 16^3 voxels.

Runs are commands in processes of their own, which a fork server starts, so that torch is imported once for all.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch

import backend.train
import backend.training.loop
from backend.data.sample import Key, Sample, click_seed, sample_rng
from backend.errors import ErrorCode, SamMed3DError
from backend.training.config import DataSection, TrainConfig, read_toml_config
from backend.training.logs import Line, read_log

SIZE = 16
SIZES = {
    "image_size": SIZE,
    "patch_size": 8,
    "width": 12,
    "depth": 1,
    "heads": 2,
    "window": 2,
    "global_blocks": [0],
    "prompt_width": 24,
    "decoder_depth": 1,
    "decoder_heads": 1,
    "decoder_mlp": 16,
}


_STARTED: list[BaseProcess] = []


def corrupt() -> None:
    raise SamMed3DError(ErrorCode.DATA_CORRUPT, "masks/7.b2nd is damaged.", "Prepare it anew.")


def no_object() -> None:
    raise RuntimeError("seed 5 gave no object in 100 attempts")


def verbose() -> None:
    raise RuntimeError(200_000 * "a compiler's report " + "and its end")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


TROUBLES: dict[str, Callable[[], object]] = {
    "corrupt": corrupt,
    "defect": lambda: 1 / 0,
    "hang": lambda: time.sleep(1000),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminate": terminate,
    "silent": lambda: os._exit(1),
    "no-object": no_object,
    "verbose": verbose,
}


@dataclass(frozen=True)
class Balls:
    """Noise with a bright ball in it.

    Attributes:
        folder: its file `read` gets a line for each sample that is read; its file `trouble`, if there is one, says
            what happens on reading which sample: "nan", or one of TROUBLES, and "epoch index".
    """

    seed: int
    length: int
    folder: Path | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> Sample:
        rng = sample_rng(self.seed, key)
        axis = torch.arange(SIZE, dtype=torch.float32)
        x, y, z = (axis - float(centre) for centre in rng.uniform(5, 11, 3))
        mask = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < rng.uniform(2, 5) ** 2
        image = mask + 0.3 * torch.from_numpy(rng.standard_normal(mask.shape, dtype="float32"))
        if self._trouble(key) == "nan":
            image[0, 0, 0] = torch.nan
        return Sample(image[None], mask[None], torch.tensor(click_seed(self.seed, key)))

    def _trouble(self, key: Key) -> str | None:
        if self.folder is None:
            return None
        with (self.folder / "read").open("a") as stream:
            stream.write(f"{key.epoch} {key.index}\n")
        told = self.folder / "trouble"
        what, _, when = told.read_text().partition(" ") if told.exists() else ("", "", "")
        if when not in (f"{key.epoch} {key.index}", "always"):
            return None
        TROUBLES.get(what, lambda: None)()
        return what


def build_datasets(
    section: DataSection, image_size: int, seed: int, device: torch.device
) -> tuple[Balls, Balls | None]:
    assert image_size == SIZE
    held_out = Balls(seed + 1, section.validation_samples) if section.validation_samples else None
    return Balls(seed, section.samples_per_epoch or 0, section.labels[0]), held_out


backend.training.loop.build_datasets = build_datasets


class TinyConfig(TrainConfig):
    """A configuration that brings this module, and so its data set, into each process that gets it."""


backend.train.load_config = partial(read_toml_config, TinyConfig)


def config(out: Path, **sections: dict[str, Any]) -> TinyConfig:
    """The configuration of a quick run, with values replaced. What goes on and wrong stands in the folder of `out`."""
    values: dict[str, dict[str, Any]] = {
        "run": {"out": out, "epochs": 2, "threads": 1, "timeout_s": 60.0, "validate_every": 0},
        "model": {"sizes": SIZES},
        "data": {"source": "synthetic", "samples_per_epoch": 8, "validation_samples": 2, "workers": 0},
        "clicks": {"interactions": 3},
        "optimizer": {"lr": 1e-2},
        "batch": {"samples_per_step": 2, "micro_batch": 2},
        "numerics": {"device": "cpu"},
    }
    for name, section in sections.items():
        values[name] |= section
    values["data"]["labels"] = (out.parent,)
    return TinyConfig.model_validate(values)


@dataclass(frozen=True)
class Command:
    """`python -m backend.train` in a process of its own."""

    process: BaseProcess
    told: Path

    def wait(self, seconds: float = 60.0) -> int | None:
        """The exit status, or None if it does not come in time."""
        self.process.join(seconds)
        return self.process.exitcode

    def output(self) -> str:
        """What it wrote to standard output and error."""
        return self.told.read_text()

    def family(self) -> list[psutil.Process]:
        """The processes that descend from it."""
        return psutil.Process(self.process.pid).children(recursive=True)


def start(wanted: TrainConfig, environment: dict[str, str] | None = None, folder: Path | None = None) -> Command:
    """Begin a run; its configuration and what it tells go to the folder, by default that of `out`."""
    folder = folder or wanted.run.out.parent
    path, told = folder / "config.json", folder / "told"
    path.write_text(wanted.model_dump_json())
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_command, args=(path, told, environment or {}))
    process.start()
    _STARTED.append(process)
    return Command(process, told)


def kill_leftovers() -> None:
    """End the commands that a failed test has left running."""
    while _STARTED:
        _STARTED.pop().kill()


def train(wanted: TrainConfig) -> str:
    """Run to the end; returns what was written to standard output and error."""
    command = start(wanted)
    assert command.wait() == 0, command.output()
    return command.output()


def _command(path: Path, told: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(backend.train.main([str(path)]))


def steps(out: Path) -> list[Line]:
    """The log's lines of optimizer steps."""
    return [line for line in read_log(out / "log.jsonl") if line["kind"] == "step"]


def losses(out: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in steps(out)]


def last_step(out: Path) -> int:
    """The step of the log's last line; 0 before there is one."""
    path = out / "log.jsonl"
    return max((line["step"] for line in read_log(path)), default=0) if path.exists() else 0


def all_end(family: list[psutil.Process], seconds: float) -> bool:
    """Whether all of these processes end in time."""
    return not psutil.wait_procs(family, timeout=seconds)[1]
