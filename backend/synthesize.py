"""Make synthetic volumes with masks: `python -m backend.synthesize OUT --count 100`."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch

from backend.cli import exit_status, progress_bar
from backend.data.synthetic.files import write_case
from backend.data.synthetic.label_maps import LabelMap, read_label_maps
from backend.errors import ErrorCode, SamMed3DError
from backend.volume import SPACING_RANGE_MM

# Of 64 bits with a sign, as torch takes them.
SEEDS = 2**63


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(prog="python -m backend.synthesize", description=__doc__)
    add = out.add_argument
    add("out", type=Path, help="folder; each volume becomes a case in it: image.nii.gz, label.nii.gz, meta.json")
    add("--count", type=int, default=100, help="how many (default: 100)")
    add("--seed", type=int, default=0, help="number of the first; each has its own, and the same is always the same")
    add("--size", type=int, default=128, help="voxels along each axis, even, at least 16 (default: 128)")
    add("--spacing", type=float, default=1.5, help="what a voxel is said to measure, in mm (default: 1.5)")
    add("--labels", type=Path, nargs="*", default=[], help="label-map files, or folders of them, to take shapes from")
    add("--jobs", type=int, default=1, help="processes (default: 1)")
    return out


def run(options: argparse.Namespace) -> None:
    """Write what is not there yet."""
    check(options)
    labels = tuple(options.labels)
    read_label_maps(labels, torch.device("cpu")) if labels else None  # its errors now, not from another process
    seeds = range(options.seed, options.seed + options.count)
    work = partial(write_one, options.out, options.size, options.spacing, labels)
    written = 0
    with (
        progress_bar(desc="volumes") as progress,
        ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool,
    ):
        try:
            for done, new in enumerate(pool.map(work, seeds), start=1):
                written += new
                progress(done, options.count)
        except BrokenProcessPool as error:
            raise SamMed3DError(
                ErrorCode.DEVICE_MEMORY,
                f"A process was killed after {written} volumes, most often for want of memory.",
                "Lower --jobs or --size; the same command goes on.",
            ) from error
    print(f"{options.out}: {written} volumes written, {options.count - written} were there")


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that no volume can be made from."""
    for name, least in (("count", 1), ("seed", 0), ("size", 16), ("jobs", 1)):
        value = getattr(options, name)
        if value < least or (name == "size" and value % 2):
            kind = "an even number" if name == "size" else "a whole number"
            raise _refusal(name, value, f"Give {kind} of at least {least}.")
    if options.seed + options.count >= SEEDS:
        raise _refusal("seed", options.seed, f"Give one below {SEEDS - options.count}.")
    low, high = SPACING_RANGE_MM
    if not low <= options.spacing <= high:
        raise _refusal("spacing", options.spacing, f"Give millimetres from {low:g} to {high:g}.")


def _refusal(name: str, value: float, remedy: str) -> SamMed3DError:
    return SamMed3DError(ErrorCode.CONFIG_INVALID, f"--{name} is {value}.", remedy)


def write_one(out: Path, size: int, spacing_mm: float, labels: tuple[Path, ...], seed: int) -> bool:
    """Write one case, in a process of its own."""
    torch.set_num_threads(1)
    return write_case(out / f"synthetic_{seed:06d}", seed, size, spacing_mm, maps_of(labels))


@cache
def maps_of(labels: tuple[Path, ...]) -> Sequence[Sequence[LabelMap]]:
    """The label maps, read once a process."""
    return read_label_maps(labels, torch.device("cpu")) if labels else ()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
