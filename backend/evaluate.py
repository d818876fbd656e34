"""Measure models by simulated clicks: `python -m backend.evaluate --model M --data INDEX_OR_FOLDER --clicks 1 3 5`.

Several --model give one comparison; differences are to the first. A run that was stopped goes on where it was if
it is given the same --out, with the same data, settings, weights and code.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from backend.cli import add_device_options, exit_status
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.metrics import TOLERANCE_MM
from backend.evaluation.protocol import CHALLENGE_CLICKS, Protocol
from backend.evaluation.report import Report
from backend.evaluation.results import CaseResult, Settings
from backend.evaluation.runner import evaluate
from backend.evaluation.segmenters import BASELINES
from backend.evaluation.tables import summary
from backend.evaluation.targets import Split, choose_cases, find_cases
from backend.extras import extra
from backend.inference.loading import model_names, resolve

# After how many clicks the paper tells Dice.
PAPER_CLICKS = (1, 3, 5, 10)


def positive(word: str) -> int:
    """A whole number from 1, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1")
    return int(word)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.evaluate", description=__doc__)
    add = out.add_argument
    names = ", ".join(model_names())
    add("--model", action="append", default=[], metavar="MODEL", help=f"{names}, a file, or untrained:NAME; repeatable")
    add("--baselines", nargs="+", default=[], choices=BASELINES, help="measured after the models")
    add("--data", type=Path, required=True, help="prepared data, or what backend.prepare takes")
    add("--clicks", type=positive, nargs="+", help="measure after so many (default: 1 3 5 10; paper only)")
    add(
        "--protocol",
        choices=get_args(Protocol),
        default="paper",
        help="challenge: a box and five clicks, not by chance",
    )
    add("--split", choices=get_args(Split), default="validation", help="of prepared data (default: validation)")
    add("--cases", nargs="+", default=[], metavar="NAME", help="these only")
    add("--limit", type=positive, help="at most so many cases")
    add("--per-case", type=positive, metavar="N", help="at most N targets a case, drawn by the seed")
    add("--min-volume-ml", type=float, default=1.0, help="leave smaller targets out (default: 1)")
    add("--tolerance-mm", type=float, default=TOLERANCE_MM, help="of the surface distance (default: 2)")
    add("--repeats", type=positive, default=1, help="trials a target, with other clicks")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("evaluation"), help="folder of the report (default: evaluation)")
    add("--jobs", type=positive, default=1, help="processes")
    add_device_options(out)
    return out


def run(options: argparse.Namespace) -> None:
    """Measure, report."""
    extra("matplotlib.figure")  # now, not after hours
    settings = read_settings(options)
    cases = choose_cases(find_cases(options.data, options.split), options.cases, options.limit)
    results: list[CaseResult] = []
    for result in evaluate(cases, settings, options.out, options.jobs):
        results.append(result)
        trials = len({(row.key, row.model, row.repeat) for row in result.rows})
        said = f"[{len(results)}/{len(cases)}] {result.case}: {trials} trials, {result.seconds:.1f} s"
        print(said, *(f"\n  failed: {f.model or ''} {f.target or ''}: {f.error}" for f in result.failures), flush=True)
    results.sort(key=lambda result: result.case)
    report = Report(settings, str(options.data), tuple(results))
    report.write(options.out)
    print_overall(report)
    if not report.rows:
        raise nothing_measured(report)
    print(options.out / "report.html")


def read_settings(options: argparse.Namespace) -> Settings:
    """The options that the values depend on.

    Raises:
        SamMed3DError: CONFIG_INVALID.
    """
    models = tuple(dict.fromkeys([*map(resolve, options.model), *options.baselines]))
    if not models:
        raise bad_options("There is no model", "Give --model or --baselines.")
    sensible = 0 <= options.min_volume_ml < math.inf and 0 < options.tolerance_mm < math.inf and options.seed >= 0
    if not sensible:
        given = f"--min-volume-ml {options.min_volume_ml}, --tolerance-mm {options.tolerance_mm}, --seed {options.seed}"
        raise bad_options(f"One of {given} is out of range", "Give a tolerance above 0, and the others from 0.")
    challenge = options.protocol == "challenge"
    if challenge and (options.clicks or options.repeats > 1):
        raise bad_options(
            f"The challenge's protocol has {CHALLENGE_CLICKS} clicks, and nothing in it is by chance",
            "Leave out --clicks and --repeats, or choose --protocol paper.",
        )
    return Settings(
        models=models,
        protocol=options.protocol,
        clicks=(CHALLENGE_CLICKS,) if challenge else tuple(sorted(set(options.clicks or PAPER_CLICKS))),
        repeats=options.repeats,
        seed=options.seed,
        min_volume_ml=options.min_volume_ml,
        per_case=options.per_case,
        tolerance_mm=options.tolerance_mm,
        device=options.device,
        precision=options.precision,
    )


def bad_options(problem: str, remedy: str) -> SamMed3DError:
    """Error for options that do not go together."""
    return SamMed3DError(ErrorCode.CONFIG_INVALID, f"{problem}.", remedy)


def print_overall(report: Report) -> None:
    """Means over all targets, one line a model and number of clicks."""
    for line in summary(report.rows):
        if line.by == "overall":
            print(f"{line.model:24} {line.clicks:3} clicks  Dice {line.dice.mean:.3f}  NSD {line.nsd.mean:.3f}")


def nothing_measured(report: Report) -> SamMed3DError:
    """What to say where there is not one row."""
    failures = report.failures
    told = f"; the first of {len(failures)} failures: {failures[0].error}" if failures else ""
    return SamMed3DError(
        ErrorCode.DATA_SOURCE,
        f"Nothing of the {len(report.results)} cases of {report.data} could be measured{told}",
        "See the report for each case; if every target is too small, lower --min-volume-ml.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for what the user can mend."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
