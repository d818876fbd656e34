"""The weights of a run, for whoever uses them."""

from pathlib import Path

from torch import nn

from backend.models.checkpoint import save_published, save_safetensors


def export(model: nn.Module, folder: Path) -> None:
    """Write `weights.safetensors`, and `weights.pth` in the published layout.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    save_safetensors(model, folder / "weights.safetensors")
    save_published(model, folder / "weights.pth")
