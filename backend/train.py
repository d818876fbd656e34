"""Train, or go on with a run: `python -m backend.train CONFIG.toml [section.key=value ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.cli import exit_status, fetch_with_bar
from backend.training.config import load_config
from backend.training.launch import in_torchrun, launch


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.train", description=__doc__)
    out.add_argument(
        "config", type=Path, help="a TOML file, or one of the shipped: smoke, pretrain, turbo or compact.toml"
    )
    out.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. run.out=runs/a optimizer.lr=1e-4")
    return out


def run(options: argparse.Namespace) -> None:
    """Read the configuration and start the ranks; a run that is there already, in run.out, is resumed."""
    config = load_config(options.config, options.overrides)
    if config.model.weights is not None and not in_torchrun():  # whose many ranks must not all download
        fetch_with_bar(config.model.weights)
    launch(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, also after SIGTERM, or 2 for what the user can mend."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
