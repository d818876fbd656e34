"""Prepare data for training: `python -m backend.prepare SOURCE... OUT`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from backend.data.cleaning import CleaningConfig
from backend.data.index import INDEX_NAME, Modality
from backend.data.jobs import PreparationConfig
from backend.data.pipeline import PipelineConfig, prepare
from backend.data.planning import Declarations
from backend.data.report import REPORT_NAME
from backend.data.split import SplitConfig
from backend.errors import ErrorCode, SamMed3DError

MODALITIES = get_args(Modality)
# What an option is called here where its field is not.
OPTIONS = {
    "min_volume_ml": "--min-volume",
    "min_extent_mm": "--min-extent",
    "max_background_share": "--max-background",
    "keep_components": "--components",
    "share": "--validation",
    "modalities": "--modality",
    "max_bad": "--max-bad",
}


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.prepare", description=__doc__)
    add = out.add_argument
    add(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="nnU-Net folder, category/dataset folders, table, cases"
    )
    add("out", type=Path, metavar="OUT", help="folder for the index, images, masks and the report")
    add("--spacing", type=float, default=1.5, metavar="MM", help="of the stored grid (default: 1.5)")
    add("--modality", action="append", default=[], metavar="[DATASET=]MODALITY", help=f"one of {', '.join(MODALITIES)}")
    add("--subject", metavar="REGEX", help="what of a case's name tells the subject: the first group, or all that fits")
    add("--min-volume", type=float, default=1.0, metavar="ML", help="smaller targets are dropped (default: 1)")
    add("--min-extent", type=float, default=15.0, metavar="MM", help="shorter targets are dropped (default: 15)")
    add("--max-background", type=float, default=0.99, metavar="SHARE", help="of a volume (default: 0.99)")
    add("--components", type=int, default=5, metavar="N", help="largest components of a target kept (default: 5)")
    add("--symmetric", nargs="*", metavar="NAME", help="pairs to split in left and right, instead of the usual ones")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="of subjects held out (default: 0.1)")
    add("--hold-out", action="append", default=[], metavar="DATASET", help="held out whole; may be repeated")
    add(
        "--hold-out-modality",
        nargs="*",
        default=["US"],
        choices=MODALITIES,
        help="held out whole (default: US; bare: none)",
    )
    add("--seed", type=int, default=0, help="of the choice of subjects")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster that sees the same files, such as tcp://host:8786")
    add("--max-bad", type=float, default=0.01, metavar="SHARE", help="of cases that may be unusable (default: 0.01)")
    return out


def _spelt(modality: str) -> Any:
    """A modality as it is written here, in whatever case it was given; what is none is refused with the others."""
    return next((known for known in MODALITIES if known.lower() == modality.lower()), modality)


def configured(options: argparse.Namespace) -> PipelineConfig:
    """The options as a configuration.

    Raises:
        SamMed3DError: CONFIG_INVALID, naming the option and its value.
    """
    pairs = [word.rpartition("=") for word in options.modality]
    cleaning = {
        "min_volume_ml": options.min_volume,
        "min_extent_mm": options.min_extent,
        "max_background_share": options.max_background,
        "keep_components": options.components,
    }
    if options.symmetric is not None:
        cleaning["symmetric"] = tuple(options.symmetric)
    try:
        return PipelineConfig(
            preparation=PreparationConfig(spacing=options.spacing, cleaning=CleaningConfig(**cleaning)),
            split=SplitConfig(
                share=options.validation,
                datasets=tuple(options.hold_out),
                modalities=tuple(options.hold_out_modality),
                seed=options.seed,
            ),
            declarations=Declarations(
                modalities=tuple((dataset or "*", _spelt(modality)) for dataset, _, modality in pairs),
                subject=options.subject,
            ),
            workers=options.workers,
            scheduler=options.scheduler,
            max_bad=options.max_bad,
        )
    except ValidationError as error:
        fault = error.errors()[0]
        option = OPTIONS.get(str(fault["loc"][0]), f"--{fault['loc'][0]}")
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID, f"{option} cannot be {fault['input']!r}: {fault['msg']}.", "Correct that option."
        ) from error


def run(options: argparse.Namespace) -> None:
    """Prepare, with a progress bar."""
    from backend.cli import progress_bar  # not at the top: worker processes import this module, and need no torch

    with progress_bar(desc="preparing", unit=" volumes") as progress:
        report = prepare(options.sources, options.out.resolve(), configured(options), progress)
    print(
        f"{options.out / INDEX_NAME}: {report.total.stored} masks ({report.total.validation} for validation) of "
        f"{report.volumes} volumes; {len(report.failures)} cases set aside; see {options.out / REPORT_NAME}"
    )
    if not report.total.validation:
        print("No subject is held out: for validation raise --validation, or choose others with --seed.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for what the user can mend."""
    from backend.cli import exit_status

    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
