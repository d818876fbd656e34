"""Synthetic volumes as files: a folder of cases, as evaluation and preparation read them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import torch

from backend.data.synthetic.generator import generate
from backend.data.synthetic.label_maps import LabelMap
from backend.io import write_mask
from backend.io.boundary import writing
from backend.volume import Source, Volume

META_NAME = "meta.json"


def write_case(folder: Path, seed: int, size: int, spacing_mm: float, maps: Sequence[Sequence[LabelMap]] = ()) -> bool:
    """Write the volume of a seed as `folder`/image.nii.gz, label.nii.gz and meta.json, all three or nothing.

    Args:
        folder: of the case; a case that is there is left as it is.
        seed: of the volume.
        size: voxels an axis, even.
        spacing_mm: what a voxel is said to measure.
        maps: label maps to take shapes from.

    Returns:
        Whether it was written.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    if _is_there(folder):
        return False
    image, mask, look = generate(seed, size, torch.device("cpu"), maps)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    array = np.rint(image.numpy()).astype(np.int16) if look == "CT" else image.numpy()
    meta = {"modality": look, "labels": {"1": {"name": "object"}}, "source": "synthetic", "seed": seed}
    with writing(folder), _beside(folder) as temporary:
        nib.save(nib.Nifti1Image(array, affine), temporary / "image.nii.gz")
        write_mask(temporary / "label.nii.gz", mask.numpy(), Volume(array, affine, Source()))
        (temporary / META_NAME).write_text(json.dumps(meta, indent=1) + "\n")
        return _moved(temporary, folder)


def _is_there(folder: Path) -> bool:
    return (folder / META_NAME).is_file()


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder in one of its own name, which is gone afterwards: several processes may make the same case."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inner = Path(temporary) / folder.name  # the outer one is for its owner's eyes only
        inner.mkdir()
        yield inner


def _moved(temporary: Path, folder: Path) -> bool:
    """Move a finished case to its place, unless another process was first."""
    with suppress(OSError):
        folder.rmdir()  # an empty one, which Windows would not replace
    try:
        temporary.replace(folder)
    except OSError:
        if not _is_there(folder):
            raise
        return False
    return True
