"""From the name of a model to one that answers clicks. Importing this imports no torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from backend.errors import SamMed3DWarning
from backend.models import zoo
from backend.models.download import Progress

if TYPE_CHECKING:
    from backend.device import Precision
    from backend.inference.engine import Engine

AUTO = "auto"
REGION = "region"
UNTRAINED = (
    "No trained weights are at hand, so clicks are answered by region growing, which has learned nothing: "
    "it takes what is connected to the click and about as bright. "
    "Choose the model sam_med3d_turbo to download the published weights (about 400 MB), or give a file of weights."
)


def model_names() -> tuple[str, ...]:
    """What can be asked for by name; a path to a file of weights can be asked for too."""
    return (AUTO, *zoo.names(), REGION)


def resolve(model: str) -> str:
    """What "auto" stands for here and now: the first model whose weights are on this computer, else region growing."""
    if model != AUTO:
        return model
    return next((name for name in zoo.names() if zoo.is_available(name)), REGION)


def load_engine(
    model: str | Path,
    device: str = "auto",
    precision: Precision = "auto",
    progress: Progress | None = None,
    cancel: Event | None = None,
) -> Engine:
    """The model on its device, its weights found, downloaded if need be, checked and loaded.

    Args:
        model: one of `model_names()`, or the path of a .pth, .pt or .safetensors file.
        device: "auto", "cuda", "mps" or "cpu"; region growing runs on the CPU all the same.
        precision: "auto", "float32" or "bfloat16".
        progress: called with (bytes so far, bytes in all) while downloading.
        cancel: set it to stop a download.

    Warns:
        SamMed3DWarning: "auto" found no weights, so that region growing will answer.

    Raises:
        SamMed3DError: the model or the device is not there, or the file is not what it should be.
    """
    from backend.device import choose_device
    from backend.inference.engine import Engine

    name, where = resolve(str(model)), choose_device(device)
    if name == REGION:
        if str(model) == AUTO:
            warnings.warn(UNTRAINED, SamMed3DWarning, stacklevel=2)
        from backend.models.region import Region

        return Engine(Region().eval(), choose_device("cpu"))  # there is nothing in it for a GPU
    path = zoo.find_weights(name, progress=progress, cancel=cancel)

    from backend.models.checkpoint import load_model

    config = zoo.entry(name).config if name in zoo.names() else None
    return Engine(load_model(path, config), where, precision)
