"""Answer cases of the CVPR 2025 challenge on interactive 3D segmentation: `python -m backend.challenge INPUTS OUTPUTS`.

Each INPUTS/NAME.npz is answered in OUTPUTS/NAME.npz, as the challenge asks of a container.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from backend.cli import add_model_options, exit_status, load_with_bar
from backend.errors import ErrorCode, SamMed3DError, told
from backend.evaluation.challenge_case import SpacingOrder, read_challenge, segment_case, write_answer


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.challenge", description=__doc__)
    out.add_argument("inputs", type=Path, help="folder of cases, or one .npz file")
    out.add_argument("outputs", type=Path, help="folder of the answers; it is made if it is not there")
    add_model_options(out)
    out.add_argument(
        "--spacing-order",
        choices=get_args(SpacingOrder),
        default="xyz",
        help="of the files' spacing (default: xyz, as SimpleITK gives it)",
    )
    return out


def run(options: argparse.Namespace) -> None:
    """Answer every case; those that cannot be are listed, and do not keep the others from being answered."""
    cases = find_files(options.inputs)
    make_folder(options.outputs, cases)
    engine = load_with_bar(options)
    failures = []
    for path in cases:
        begin = time.perf_counter()
        try:
            case = read_challenge(path, options.spacing_order)
            write_answer(options.outputs / path.name, segment_case(case, engine))
            print(f"{path.name}: {len(case.prompts)} classes, {time.perf_counter() - begin:.1f} s", flush=True)
        except Exception as error:  # whatever it is, it is told, and the other cases are answered
            failures.append(path.name)
            print(f"error: {path.name}: {told(error)}", file=sys.stderr)
    if failures:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"{len(failures)} of {len(cases)} cases were not answered: {', '.join(failures)}.",
            "See the errors above; the others were.",
        )


def find_files(inputs: Path) -> list[Path]:
    """The .npz files of a folder by name, but for hidden ones (macOS leaves some on shared drives), or the one file.

    Raises:
        SamMed3DError: FILE_MISSING: there is none; FILE_READ.
    """
    try:
        found = [inputs] if inputs.is_file() else sorted(inputs.glob("[!.]*.npz"))
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_READ, f"{inputs} could not be read: {error.strerror}.", "Check its permissions."
        ) from error
    if not found:
        raise SamMed3DError(
            ErrorCode.FILE_MISSING, f"There is no .npz file in {inputs}.", "Name the folder of the challenge's cases."
        )
    return found


def make_folder(outputs: Path, cases: Sequence[Path]) -> None:
    """Make the folder of the answers.

    Raises:
        SamMed3DError: FILE_WRITE: it cannot be made, or the answers would replace the cases.
    """
    try:
        outputs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_WRITE, f"{outputs} could not be made: {error.strerror}.", "Choose another folder."
        ) from error
    if outputs.samefile(cases[0].parent):
        raise SamMed3DError(
            ErrorCode.FILE_WRITE, f"The answers would replace the cases in {outputs}.", "Choose another folder."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for what the user can mend."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
