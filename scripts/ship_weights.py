"""Make a run's weights the ones that come with the package: `python scripts/ship_weights.py runs/compact`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the weights of this clone, whatever is installed

from backend.cli import exit_status
from backend.errors import ErrorCode, SamMed3DError
from backend.models import zoo
from backend.models.checkpoint import load_model, save_safetensors

MOST_BYTES = 25_000_000


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(description=__doc__)
    out.add_argument("run", type=Path, help="the folder of the run")
    return out


def run(options: argparse.Namespace) -> None:
    """Write them in half precision, which halves the wheel, unless they do not fit."""
    target, config = zoo.weights_path(zoo.SHIPPED), zoo.entry(zoo.SHIPPED).config
    beside = target.with_suffix(".new")
    model = load_model(options.run / "weights.safetensors", config)
    try:
        save_safetensors(model.half(), beside)
        size = beside.stat().st_size
        if size > MOST_BYTES:
            raise SamMed3DError(
                ErrorCode.CHECKPOINT_MISMATCH,
                f"The weights of {options.run} take {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}.",
                "Train a smaller network.",
            )
        load_model(beside, config)  # half precision makes large weights infinite, which is refused
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{target}: {size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
