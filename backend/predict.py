"""Click into a volume from the command line: `python -m backend.predict IMAGE --point I J K -o MASK`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backend.cli import add_model_options, exit_status, load_with_bar, progress_bar
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside, from_world, same_grid, to_world
from backend.inference.loading import resolve
from backend.inference.predictor import Predictor
from backend.inference.prompts import Box, Click, InitialMask, Point, Prompt, check_order, check_prompt
from backend.inference.session import Session
from backend.io import check_writable, read_volume, write_mask
from backend.io.labels import holds_labels
from backend.volume import Volume


class AddClick(argparse.Action):
    """Collect the clicks of all four options in one list, in the order in which they were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for each click."""
        clicks = [*(getattr(namespace, self.dest) or []), (option_string, values)]
        setattr(namespace, self.dest, clicks)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m backend.predict", description=__doc__)
    add = out.add_argument
    add("image", type=Path, help="NIfTI, NRRD, MHA, TIFF, or a folder with a DICOM series")
    for option, what in (("--point", "on the object"), ("--negative", "on what is not the object")):
        for suffix, metavar, unit in (("", "IJK", "as voxel indices from 0"), ("-mm", "XYZ", "in mm, RAS+")):
            text = f"a click {what}, {unit}; may be repeated, and the order counts"
            add(option + suffix, dest="clicks", action=AddClick, nargs=3, type=float, metavar=tuple(metavar), help=text)
    add(
        "--box",
        nargs=6,
        type=float,
        metavar=("I", "J", "K", "I2", "J2", "K2"),
        help="two opposite corners around it, before clicks; models that know no boxes take it as a click at its "
        "centre (and compact as a size; after an initial mask it says nothing new to it)",
    )
    add(
        "--initial-mask",
        type=Path,
        metavar="MASK",
        help="a mask on the image's grid to start from, before box and clicks",
    )
    add("--label", type=int, metavar="N", help="which label of an initial mask of several is the object")
    add("-o", "--output", type=Path, required=True, metavar="MASK", help="the mask's file, on the image's own grid")
    add_model_options(out)
    add("--frame", type=int, help="which frame of a 4-D image, from 0")
    add(
        "--no-extend",
        action="store_true",
        help="stay in the first window, even where the object goes on, or is small in it; no finer ones at its border",
    )
    return out


def run(options: argparse.Namespace) -> None:
    """Read, segment, write."""
    check_output(options)
    if options.label is not None and options.initial_mask is None:
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"--label {options.label} is of an initial mask, and there is none.",
            "Name the mask with --initial-mask, or leave --label out.",
        )
    volume = read_volume(options.image, options.frame)
    check_writable(options.output, volume)
    prompts = collect_prompts(options, volume)
    session = Session(Predictor(load_with_bar(options), volume), extend=not options.no_extend)
    with progress_bar(desc="segmenting", unit=" windows") as progress:
        for prompt in prompts:  # each answered, as in the window, so that the same clicks give the same mask
            session.add(prompt)
            session.segment(progress)
    write_mask(options.output, session.labels, volume)
    voxels = int(np.count_nonzero(session.labels))
    millilitres = voxels * abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    print(f"{options.output}: {voxels} voxel{'s' * (voxels != 1)}, {millilitres:.3f} ml, by {resolve(options.model)}")


def check_output(options: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, or that would replace what is read."""
    check_writable(options.output)
    for source in (options.image, options.initial_mask):
        if source is not None and source.exists() and options.output.exists() and source.samefile(options.output):
            raise SamMed3DError(
                ErrorCode.FILE_WRITE, f"The mask would replace {source}, which is read.", "Give it another name."
            )


def collect_prompts(options: argparse.Namespace, volume: Volume) -> list[Prompt]:
    """An initial mask first, then a box, then the clicks in their order."""
    prompts: list[Prompt] = []
    if options.initial_mask is not None:
        prompts.append(read_initial_mask(options.initial_mask, volume, options.label))
    if options.box is not None:
        prompts.append(Box(point(options.box[:3]), point(options.box[3:])))
    for option, values in options.clicks or []:
        index = voxel_of_mm(volume, values) if option.endswith("-mm") else point(values)
        prompts.append(Click(index, option.startswith("--point")))
    if not prompts:
        raise SamMed3DError(
            ErrorCode.PROMPT_NEEDS_POSITIVE,
            "There is no prompt.",
            "Give at least one --point I J K, --point-mm X Y Z, --box or --initial-mask.",
        )
    for prompt in prompts:  # now, not after a long download
        check_prompt(volume, prompt)
    check_order(prompts)
    return prompts


def read_initial_mask(path: Path, volume: Volume, label: int | None) -> InitialMask:
    """The mask of a file, or one label of it; refused where it is not on the volume's grid, or not of one object."""
    mask = read_volume(path)
    if not same_grid(volume, mask):
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"The initial mask {path} is not on the image's grid: shape {mask.shape}, affine {mask.affine.tolist()}.",
            f"Resample it to the image: shape {volume.shape}, affine {volume.affine.tolist()}.",
        )
    voxels = np.asarray(mask.array)
    if not holds_labels(voxels):
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"The initial mask {path} is no mask: its voxels are {voxels.dtype} from {voxels.min()} to {voxels.max()}, "
            "not whole numbers from 0.",
            "Give a mask; of probabilities, those above a threshold.",
        )
    labels = [int(value) for value in np.unique(voxels) if value]
    if (label is None and len(labels) > 1) or label not in (None, *labels):
        asked = "" if label is None else f", and not {label}"
        listed = ", ".join(map(str, labels[:20])) + ", ..." * (len(labels) > 20)
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"The initial mask {path} holds the labels {listed or 'of no object'}{asked}.",
            "Choose one of them with --label.",
        )
    return InitialMask(voxels != 0 if label is None else voxels == label)


def voxel_of_mm(volume: Volume, values: Sequence[float]) -> Point:
    """The voxel index of a point in mm, refused in mm if it is not in the volume."""
    index = from_world(volume, values)
    try:
        check_inside(volume, index)
    except SamMed3DError as error:
        ends = to_world(volume, np.stack([np.zeros(3), np.array(volume.shape) - 1])).round(1).tolist()
        raise SamMed3DError(
            ErrorCode.PROMPT_INVALID,
            f"The point {values} mm is not in the image.",
            f"Its first voxel lies at {ends[0]} mm and its last at {ends[1]} mm (RAS+).",
        ) from error
    return point(index.tolist())


def point(values: Sequence[float]) -> Point:
    """Three numbers as a point."""
    x, y, z = values
    return x, y, z


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for what the user can mend."""
    words = sys.argv[1:] if arguments is None else arguments
    # argparse (before 3.13) takes -3.4e2 for an option.
    plain = [f"{float(word):f}" if re.fullmatch(r"-(\d+\.?\d*|\.\d+)[eE][-+]?\d+", word) else word for word in words]
    return exit_status(run, parser().parse_args(plain))


if __name__ == "__main__":
    sys.exit(main())
