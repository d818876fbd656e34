"""Weights by name, and where they lie on this computer: published ones, and those that come with it. No torch."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from platformdirs import user_cache_dir

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import COMPACT, VIT_B_ORI, ModelConfig, NetworkConfig
from backend.models.download import HubFile, Progress, fetch, verify

WEIGHTS_SUFFIXES = frozenset({".pth", ".pt", ".safetensors"})

SHIPPED = "compact"
"""The model that needs neither network nor GPU."""

_REPOSITORY = "blueyo0/SAM-Med3D"
_WITH_BOXES = replace(VIT_B_ORI, box_prompts=True)


@dataclass(frozen=True)
class ZooEntry:
    """A file of weights.

    Args:
        name: what a user calls it, in scripts and settings.
        config: the network it fits.
        hub: where it comes from, None if it is part of this package. No commit of the hub is known here, so
            `revision` is a branch; the first download resolves it to a commit, and the sidecar of the download pins
            that one from then on.
        licence: SPDX name; of published weights it is that of the published code, whose readme names no other.
        trained_for: what it was trained on and which prompts it knows, in a sentence.
        to_train: it is there to be trained, not to be used; "auto" passes over it.
    """

    name: str
    config: NetworkConfig
    hub: HubFile | None
    licence: str
    trained_for: str
    to_train: bool = False


def _published(name: str, config: ModelConfig, trained_for: str, *, to_train: bool = False) -> ZooEntry:
    return ZooEntry(name, config, HubFile(_REPOSITORY, f"{name}.pth"), "Apache-2.0", trained_for, to_train)


_ENTRIES = {
    entry.name: entry
    for entry in (
        _published(
            "sam_med3d_turbo",
            VIT_B_ORI,
            "Clicks; trained on SA-Med3D-140K, then fine-tuned on 44 public data sets of CT, MR and more.",
        ),
        _published(
            "sam_med3d_turbo_bbox_init",
            _WITH_BOXES,
            "For clicks the same as sam_med3d_turbo; its box embeddings are random, a start for fine-tuning.",
            to_train=True,
        ),
        _published(
            "sam_med3d_turbo_cvpr_coreset",
            _WITH_BOXES,
            "Clicks and boxes; fine-tuned on the tenth of the CVPR 2025 challenge data that is its coreset.",
        ),
        _published(
            "sam_med3d_turbo_cvpr_alldata",
            _WITH_BOXES,
            "Clicks and boxes; fine-tuned on all of the CVPR 2025 challenge data.",
        ),
        ZooEntry(
            SHIPPED,
            COMPACT,
            None,
            "Apache-2.0",
            "Clicks at any voxel size; trained on synthetic volumes alone, and part of this package.",
        ),
    )
}


def names() -> tuple[str, ...]:
    """The known names, the recommended one first, the one that is always here last."""
    return tuple(_ENTRIES)


def entry(name: str) -> ZooEntry:
    """The entry of that name.

    Raises:
        SamMed3DError: MODEL_UNKNOWN, with the names there are.
    """
    if name not in _ENTRIES:
        raise SamMed3DError(
            ErrorCode.MODEL_UNKNOWN,
            f"There is no model named {name!r}.",
            f"Choose one of auto, {', '.join(names())}, region, or give the path of a .pth, .pt or .safetensors file.",
        )
    return _ENTRIES[name]


def weights_path(name: str) -> Path:
    """Where the weights of that name lie, or would lie, on this computer."""
    hub = entry(name).hub
    if hub is None:
        return Path(__file__).parent / "weights" / f"{name}.safetensors"
    return cache_folder() / "weights" / hub.filename


def cache_folder() -> Path:
    """Where downloads go: the folder that the environment variable NAPARI_SAMED3D_CACHE names, or the user's cache."""
    return expanded(os.environ.get("NAPARI_SAMED3D_CACHE") or user_cache_dir("napari-samed3d"))


def expanded(path: str | Path) -> Path:
    """A path with ~ as the home folder; one of a user that is not there stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser() raises


def is_available(name: str) -> bool:
    """Whether the weights of that name are here already, and may be looked at; asks no network."""
    return _is_file(weights_path(name))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file() raises what a folder refuses


def find_weights(
    name_or_path: str | Path, download: bool = True, progress: Progress | None = None, cancel: Event | None = None
) -> Path:
    """The file of weights: a path as given, else the cached file of that name, else a download of it.

    Args:
        name_or_path: one of `names()`, or a file; what ends in .pth, .pt or .safetensors is always a file.
        download: whether the network may be asked.
        progress: called with (bytes so far, bytes in all) while downloading.
        cancel: set it to stop a download.

    Raises:
        SamMed3DError: FILE_MISSING, MODEL_UNKNOWN, DOWNLOAD_CHANGED (the cached file is not the one that was
            downloaded), DOWNLOAD_FAILED and the others of `download.fetch`.
    """
    path = expanded(name_or_path)
    if _is_file(path):
        return path
    if path.suffix.lower() in WEIGHTS_SUFFIXES:
        raise SamMed3DError(ErrorCode.FILE_MISSING, f"There is no file {path}.", "Check the path of the weights.")
    return _named_weights(entry(str(name_or_path)), download, progress, cancel)


def _named_weights(model: ZooEntry, download: bool, progress: Progress | None, cancel: Event | None) -> Path:
    path = weights_path(model.name)
    if model.hub is None:
        return path
    if _is_file(path):
        verify(path)
    elif download:
        fetch(model.hub, path, progress, cancel)
    else:
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"The weights of {model.name} are not on this computer, and are not downloaded here.",
            f"Have the window or backend.predict download them, put {model.hub.url()} at {path}, or give their path.",
        )
    return path
