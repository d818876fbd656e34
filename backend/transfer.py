"""Semantic segmentation on the image encoder, with and without its weights: `python -m backend.transfer CONFIG.toml`.

UNETR learns the same targets on the same crops for as long, once with the trained image encoder as its backbone and
once with an untrained one (SAM-Med3D paper, table 6). The result, transfer.json in run.out, has the Dice of both.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.cli import exit_status, fetch_with_bar
from backend.training.config import read_toml_config
from backend.training.transfer import ARMS, RESULT_NAME, ArmResult, transfer
from backend.training.transfer_config import TransferConfig


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.transfer", description=__doc__)
    out.add_argument("config", type=Path, help="a TOML file, or the shipped transfer.toml")
    out.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. model.weights=turbo.pth")
    return out


def run(options: argparse.Namespace) -> None:
    """Train both arms and tell their Dice."""
    config = read_toml_config(TransferConfig, options.config, options.overrides)
    if config.model.weights is not None:
        fetch_with_bar(config.model.weights)
    print(table(transfer(config)))
    print(config.run.out / RESULT_NAME)


def table(results: dict[str, ArmResult]) -> str:
    """Dice of both arms, one line a target, the mean last."""
    columns = [{**results[arm].targets, "mean": results[arm].dice} for arm in ARMS]
    width = max(map(len, columns[0]))
    lines = [f"{'Dice':{width}}  {ARMS[0]:>10}  {ARMS[1]:>10}"]
    lines += [f"{name:{width}}  {columns[0][name]:10.3f}  {columns[1][name]:10.3f}" for name in columns[0]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for what the user can mend."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
