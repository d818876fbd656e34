"""What the command lines share: how a model is asked for, and how errors and warnings reach a terminal."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from backend.errors import SamMed3DError, SamMed3DWarning
from backend.inference.loading import AUTO, load_engine, model_names
from backend.models.zoo import find_weights

if TYPE_CHECKING:
    from backend.inference.engine import Engine


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --device and --precision."""
    names = ", ".join(model_names())
    parser.add_argument("--model", default=AUTO, help=f"{names}, or a .pth or .safetensors file (default: auto)")
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """--device and --precision."""
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))


def load_with_bar(options: argparse.Namespace) -> Engine:
    """The model of those options, with a progress bar on standard error while it is downloaded."""
    with progress_bar(unit="B", unit_scale=True, unit_divisor=1024) as progress:
        return load_engine(options.model, options.device, options.precision, progress)


def fetch_with_bar(weights: str | Path) -> None:
    """Have the weights of that name or path on this computer, with a progress bar while they are downloaded."""
    with progress_bar(unit="B", unit_scale=True, unit_divisor=1024) as progress:
        find_weights(weights, progress=progress)


@contextmanager
def progress_bar(**look: Any) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, nothing elsewhere; gives a function to call with what is done and, if known, of how much."""
    with tqdm(leave=False, disable=None, **look) as bar:

        def progress(done: int, total: int | None = None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Within it, warnings are one line on standard error, and none of ours is left out for having been told before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SamMed3DWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        yield


def exit_status(run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Run a command: 0, or 2 with a message on standard error for what the user can mend, or 130 at Ctrl-C."""
    with plain_warnings():
        try:
            run(options)
        except SamMed3DError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
    return 0
