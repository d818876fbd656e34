"""Synthetic volumes as files: a folder of cases, as evaluation and preparation read them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from backend.data.synthetic.generator import generate
from backend.data.synthetic.label_maps import LabelMap
from backend.io import write_mask
from backend.io.boundary import writing
from backend.volume import Source, Volume


def write_case(folder: Path, seed: int, size: int, spacing_mm: float, maps: Sequence[Sequence[LabelMap]] = ()) -> bool:
    """Write the volume of a seed as `folder`/image.nii.gz, label.nii.gz and meta.json, all three or nothing.

    Args:
        folder: of the case; one that exists is left as it is.
        seed: of the volume.
        size: voxels an axis, even.
        spacing_mm: what a voxel is said to measure.
        maps: label maps to take shapes from.

    Returns:
        Whether it was written.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    if folder.exists():
        return False
    image, mask, look = generate(seed, size, torch.device("cpu"), maps)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    array = image.numpy().astype(np.int16) if look == "CT" else image.numpy()
    temporary = folder.with_name(f".{folder.name}")
    with writing(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, affine), temporary / "image.nii.gz")
        write_mask(temporary / "label.nii.gz", mask.numpy(), Volume(array, affine, Source()))
        meta = {"modality": look, "labels": {"1": {"name": "object"}}, "source": "synthetic", "seed": seed}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        temporary.replace(folder)
    return True
