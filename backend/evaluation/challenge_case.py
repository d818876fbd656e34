"""A case of the CVPR 2025 challenge "Foundation Models for Interactive 3D Biomedical Image Segmentation".

What is known of its .npz files, from the organisers' readme and their CVPR25_iter_eval.py:

- `imgs`: (z, y, x), values 0 to 255. `spacing`: three numbers in mm. Their preparation stores SimpleITK's, that is
  (x, y, z), and the published SAM-Med3D container reads it so; their script hands it to arrays in (z, y, x).
- `boxes`, not in every case: a list with one dictionary a class: z_min, z_max, z_mid, and of the middle slice
  z_mid_x_min, z_mid_x_max, z_mid_y_min, z_mid_y_max. Both ends belong to the box.
- `clicks`: a list with one dictionary a class, {"fg": [[z, y, x], ...], "bg": [...]}, all clicks so far. (A comment of
  the script says [x, y, z]; its code writes indices of the (z, y, x) array.) `clicks_order`: for each class "fg"
  and "bg" in the order in which they were given.
- `prev_pred`: (z, y, x), the container's last answer, 0 or 1 + the class.
- the answer: `segs`, (z, y, x), likewise.

No orientation is stored: the volume is taken to lie as SimpleITK lays an array, x to Left, y to Posterior, z up.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.evaluation.metrics import Bools
from backend.evaluation.safe_npz import read_npz
from backend.geometry import DisplayOrder, ShownArray, plain_order
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.prompts import Box, Click, InitialMask, Point, Prompt, check_prompt, positive_first
from backend.inference.session import Session
from backend.io.atomic import replacing
from backend.io.boundary import reading, writing
from backend.volume import Volume

SpacingOrder = Literal["xyz", "zyx"]
KEYS = ("imgs", "spacing", "boxes", "clicks", "clicks_order", "prev_pred")


@dataclass(frozen=True, eq=False)
class ChallengeCase:
    """A case as it is segmented.

    Args:
        volume: the image, axes (x, y, z).
        order: the way between the file's (z, y, x) and the volume.
        prompts: of each class, the first being label 1; a box first, then clicks in their order.
        previous: labels (x, y, z) of the last answer; None if there is none.
    """

    volume: Volume
    order: DisplayOrder
    prompts: tuple[tuple[Prompt, ...], ...]
    previous: npt.NDArray[Any] | None = field(repr=False)


def read_challenge(path: Path, spacing_order: SpacingOrder = "xyz") -> ChallengeCase:
    """Read a case.

    Args:
        path: .npz.
        spacing_order: of the three numbers of `spacing`.

    Raises:
        SamMed3DError: not such a file, damaged, or with a pickle that asks for more than numbers.
    """
    with reading(path):
        content = read_npz(path, KEYS)
        if "imgs" not in content or "spacing" not in content:
            raise _bad("has no " + " and no ".join(key for key in ("imgs", "spacing") if key not in content))
        image = np.asarray(content["imgs"])
        if image.ndim != 3:
            raise _bad(f"has imgs of {image.ndim} axes, shape {image.shape}")
        depth, height, width = image.shape
        order = plain_order((depth, height, width))
        previous = content.get("prev_pred")
        if previous is not None and (previous.shape != image.shape or previous.dtype.kind not in "biu"):
            raise _bad(f"has prev_pred of shape {previous.shape} and type {previous.dtype} for imgs {image.shape}")
        return ChallengeCase(
            volume=Volume(_to_volume(order, image), _affine(content["spacing"], spacing_order)),
            order=order,
            prompts=_prompts(content, order),
            previous=None if previous is None else _to_volume(order, previous),
        )


def _to_volume(order: DisplayOrder, shown: npt.NDArray[Any]) -> npt.NDArray[Any]:
    whole = slice(None)
    return ShownArray(shown, order)[whole, whole, whole]


def _affine(spacing: Any, order: SpacingOrder) -> npt.NDArray[np.float64]:
    numbers = np.asarray(spacing, dtype=np.float64).ravel()
    if numbers.shape != (3,):
        raise _bad(f"has a spacing of {numbers.size} numbers")
    x, y, z = numbers if order == "xyz" else numbers[::-1]
    return np.diag([-x, -y, z, 1.0])


def _prompts(content: Mapping[str, Any], order: DisplayOrder) -> tuple[tuple[Prompt, ...], ...]:
    boxes, clicks, orders = (_listed(content.get(key), key) for key in ("boxes", "clicks", "clicks_order"))
    found = []
    for number in range(max(len(boxes), len(clicks))):
        prompts: list[Prompt] = []
        if number < len(boxes) and boxes[number] is not None:
            prompts.append(_box(boxes[number], order))
        if number < len(clicks):
            prompts += _clicks(clicks[number], orders[number] if number < len(orders) else None, order)
        found.append(tuple(prompts))
    return tuple(found)


def _listed(value: Any, key: str) -> list[Any]:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if value is None:
        return []
    if not isinstance(value, list):
        raise _bad(f"has {key} that is a {type(value).__name__}, not a list with one entry a class")
    return value


def _box(box: Any, order: DisplayOrder) -> Box:
    ends = [[f"z_{end}", f"z_mid_y_{end}", f"z_mid_x_{end}"] for end in ("min", "max")]
    if not isinstance(box, dict) or any(key not in box for keys in ends for key in keys):
        raise _bad(f"has a box that is {box!r}")
    corner, opposite = (_point([box[key] for key in keys], order) for keys in ends)
    return Box(corner, opposite)


def _clicks(clicks: Any, kinds: Sequence[str] | None, order: DisplayOrder) -> list[Click]:
    """The clicks of a class in their order; those on the object first where none is told."""
    if not isinstance(clicks, dict) or not all(isinstance(clicks.get(kind), list) for kind in ("fg", "bg")):
        raise _bad(f"has clicks of a class that are {clicks!r}")
    if kinds is None:
        kinds = ["fg"] * len(clicks["fg"]) + ["bg"] * len(clicks["bg"])
    given = {kind: iter(clicks[kind]) for kind in ("fg", "bg")}
    if any(list(kinds).count(kind) != len(clicks[kind]) for kind in given) or not set(kinds) <= set(given):
        raise _bad(f"has clicks_order {list(kinds)} for {len(clicks['fg'])} fg and {len(clicks['bg'])} bg clicks")
    return [Click(_point(next(given[kind]), order), kind == "fg") for kind in kinds]


def _point(zyx: Sequence[Any], order: DisplayOrder) -> Point:
    numbers = np.asarray(zyx)
    if numbers.shape != (3,) or numbers.dtype.kind not in "iuf":
        raise _bad(f"has a point that is {zyx!r}, not three numbers")
    x, y, z = order.to_volume(numbers).tolist()
    return x, y, z


def _bad(what: str) -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.FILE_FORMAT,
        f"It {what}.",
        "A case needs imgs (z, y, x), spacing, and boxes or clicks as the CVPR 2025 challenge writes them.",
    )


def segment_case(case: ChallengeCase, engine: Engine) -> npt.NDArray[Any]:
    """Answer all classes.

    Each class is an object of its own, its prompts given one after the other. Where classes overlap the smaller
    object is on top, so that what lies within an organ is not covered by it. A class without prompts keeps its
    voxels of `prev_pred`; so does one that begins with a background click, which is taken from them.

    Returns:
        (z, y, x), 0 or 1 + the class; uint8, or uint16 beyond 255 classes.
    """
    predictor = Predictor(engine, case.volume)
    patches = {label: _cut(_object(case, predictor, label, prompts)) for label, prompts in enumerate(case.prompts, 1)}
    labels = np.zeros(case.volume.shape, dtype=np.uint8 if len(patches) < 256 else np.uint16)
    for label, patch in sorted(patches.items(), key=lambda item: -np.count_nonzero(item[1].mask)):
        labels[patch.slices][patch.mask] = label
    return case.order.show(labels)


def _cut(mask: Bools) -> MaskPatch:
    """The box of a mask: there may be a hundred classes, and whole they would not fit into memory."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return EMPTY_PATCH
    x, y, z = (side.start for side in boxes[0])
    return MaskPatch((x, y, z), mask[boxes[0]].copy())


def _object(case: ChallengeCase, predictor: Predictor, label: int, prompts: tuple[Prompt, ...]) -> Bools:
    before = np.zeros(case.volume.shape, dtype=bool) if case.previous is None else case.previous == label
    prompts = _inside(case.volume, label, prompts)
    if _starts_off(prompts) and before.any():
        prompts = (InitialMask(before), *prompts)
    prompts = positive_first(prompts)
    if not prompts or _starts_off(prompts):
        return before
    session = Session(predictor)
    for prompt in prompts:
        session.add(prompt)
    session.segment()
    return session.labels > 0


def _starts_off(prompts: tuple[Prompt, ...]) -> bool:
    return bool(prompts) and isinstance(prompts[0], Click) and not prompts[0].positive


def _inside(volume: Volume, label: int, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """The prompts that lie in the volume.

    Warns:
        SamMed3DWarning: for each of the others.
    """
    kept = []
    for prompt in prompts:
        try:
            check_prompt(volume, prompt)
            kept.append(prompt)
        except SamMed3DError as error:
            warnings.warn(f"A prompt of class {label} is left out: {error.problem}", SamMed3DWarning, stacklevel=2)
    return tuple(kept)


def write_answer(path: Path, segs: npt.NDArray[Any]) -> None:
    """Write an answer, replacing `path` whole or not at all.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    with writing(path), replacing(path) as temporary:
        np.savez_compressed(temporary, segs=segs)
