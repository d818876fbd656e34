"""From the name of a model to one that answers clicks. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from backend.models import zoo
from backend.models.download import Progress

if TYPE_CHECKING:
    from backend.device import Precision
    from backend.inference.engine import Engine

AUTO = "auto"
REGION = "region"


def model_names() -> tuple[str, ...]:
    """What can be asked for by name; a path to a file of weights can be asked for too."""
    return (AUTO, *zoo.names(), REGION)


def resolve(model: str) -> str:
    """What "auto" stands for here and now: the first model to be used whose weights are on this computer."""
    if model != AUTO:
        return model
    return next(name for name in zoo.names() if zoo.is_available(name) and not zoo.entry(name).to_train)


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

    Raises:
        SamMed3DError: the model or the device is not there, or the file is not what it should be.
    """
    from backend.device import choose_device
    from backend.inference.engine import Engine

    name, where = resolve(str(model)), choose_device(device)
    if name == REGION:
        from backend.models.region import Region

        return Engine(Region().eval(), choose_device("cpu"))  # there is nothing in it for a GPU
    path = zoo.find_weights(name, progress=progress, cancel=cancel)

    from backend.models.checkpoint import load_model

    config = zoo.entry(name).config if name in zoo.names() else None
    return Engine(load_model(path, config), where, precision)
