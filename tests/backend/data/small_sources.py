"""Small sources of each kind, and the prepared folders that come of them."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from backend.data.cleaning import CleaningConfig
from backend.data.jobs import PreparationConfig
from backend.data.pipeline import PipelineConfig

# So that targets of some voxels are kept.
LOOSE = CleaningConfig(min_volume_ml=0, min_extent_mm=0, max_background_share=1)
SETTINGS = PipelineConfig(preparation=PreparationConfig(spacing=1.5, cleaning=LOOSE))


def write(path: Path, array: npt.NDArray[Any], spacing: float = 1.5, affine: npt.ArrayLike | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if affine is None:
        affine = np.diag([spacing, spacing, spacing, 1])
    nib.Nifti1Image(array, np.asarray(affine)).to_filename(path)
    return path


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> npt.NDArray[np.bool_]:
    at = np.moveaxis(np.indices(shape), 0, -1) - np.array(centre)
    inside: npt.NDArray[np.bool_] = (at**2).sum(-1) <= radius**2
    return inside


def picture(shape: tuple[int, int, int] = (20, 18, 16), seed: int = 0) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-2000, 2000, shape).astype(np.int16)


def labels(shape: tuple[int, int, int] = (20, 18, 16)) -> npt.NDArray[np.uint8]:
    out = np.zeros(shape, dtype=np.uint8)
    out[3:9, 4:12, 5:10] = 1
    out[12:17, 4:12, 5:10] = 2
    return out


def case_folder(folder: Path, meta: dict[str, Any] | None = None, seed: int = 0) -> Path:
    write(folder / "image.nii.gz", picture(seed=seed))
    write(folder / "label.nii.gz", labels())
    if meta is not None:
        (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def case_folders(root: Path, count: int = 3) -> Path:
    for number in range(count):
        meta = {"modality": "CT (test)", "labels": {"1": {"name": "liver"}, "2": "spleen"}, "dataset": "demo"}
        case_folder(root / f"case_{number}", meta, seed=number)
    return root


def nnunet_folder(root: Path, content: dict[str, Any], images: dict[str, npt.NDArray[Any]], *cases: str) -> Path:
    for name, array in images.items():
        write(root / "imagesTr" / f"{name}.nii.gz", array)
    for name in cases:
        write(root / "labelsTr" / f"{name}.nii.gz", labels())
    (root / "dataset.json").write_text(json.dumps(content))
    return root
