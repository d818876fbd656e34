"""What the benchmarks share: their options, and the memory that a process took."""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.training.throughput import peak_memory


def positive(text: str) -> int:
    """A whole number from 1, as the type of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def timing_parser(description: str | None, counted: str, default: int, told: str) -> argparse.ArgumentParser:
    """With --threads, and how often something is timed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=positive, default=2, help="threads of torch")
    parser.add_argument(counted, type=positive, default=default, help=told)
    return parser


def peak_mb() -> float:
    """The peak resident memory of this process, in units of 2^20 bytes."""
    peak = peak_memory(torch.device("cpu"))
    if peak is None:
        raise SystemExit("This system does not tell how much memory a process took.")
    return peak / 2**20
