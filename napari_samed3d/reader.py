"""Medical volumes as image layers: upright, in mm, with the file's exact geometry kept for saving."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LayerTuple = tuple[Any, dict[str, Any], str]
PathOrPaths = str | Sequence[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """The reader for a path, or None where it is not for us (npe2)."""
    from backend.io import READABLE_SUFFIXES

    paths = [path] if isinstance(path, str) else path
    readable = all(Path(p).is_dir() or p.lower().endswith(READABLE_SUFFIXES) for p in paths)
    return read_volumes if readable else None


def read_volumes(path: PathOrPaths) -> list[LayerTuple]:
    """One image layer a path.

    Raises:
        SamMed3DError: the file is not a volume; napari shows what to do.
    """
    from backend.io import read_volume

    return [volume_layer(read_volume(p), Path(p).name) for p in ([path] if isinstance(path, str) else path)]


def volume_layer(volume: Any, name: str) -> LayerTuple:
    """A volume as an image layer."""
    from napari_samed3d.frames import shown_layer

    data, kwargs = shown_layer(volume, volume.array)
    return data, {"name": name, **kwargs}, "image"
