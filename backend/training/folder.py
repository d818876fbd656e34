"""The folder of a run: whose it is, and that only one run writes to it."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from backend.data.index import INDEX_NAME
from backend.data.synthetic.label_maps import label_files
from backend.errors import ErrorCode, SamMed3DError
from backend.io.atomic import leftovers, replacing
from backend.io.boundary import writing
from backend.training.config import TrainConfig, load_config

CONFIG_NAME = "config.json"
LOG_NAME = "log.jsonl"
CHECKPOINTS_NAME = "checkpoints"
EMBEDDINGS_NAME = "embeddings"

# What may change when a run is resumed: where and how fast it computes and how often it saves, not what it learns.
_FREE_SECTIONS = ("run", "numerics")
_FREE_KEYS = ("batch.micro_batch", "data.workers", "data.path")  # what lies at the path is bound: see `fingerprint`
_BOUND_KEYS = ("run.seed",)


def lock_folder(folder: Path) -> FileLock:
    """Make the folder of a run and hold it, until the lock is released or the process ends.

    Raises:
        SamMed3DError: RUN_STATE, another process trains there; FILE_WRITE.
    """
    lock = FileLock(folder / ".lock")
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except SamMed3DError as error:
        if not isinstance(error.__cause__, Timeout):
            raise
        raise SamMed3DError(
            ErrorCode.RUN_STATE,
            f"Another process is training in {folder}.",
            "Wait for its end, or choose another run.out.",
        ) from error
    return lock


def sweep_folder(folder: Path) -> None:
    """Remove what killed writing has left of this run's files; no one else may be writing there."""
    for place in (folder, folder / CHECKPOINTS_NAME, *folder.glob(f"{EMBEDDINGS_NAME}/*/*")):
        for stale in leftovers(place):
            stale.unlink(missing_ok=True)


def claim_folder(config: TrainConfig) -> None:
    """Save the resolved configuration with the run, unless the folder is another run's.

    A run that never came to its first whole checkpoint binds no one: its configuration is replaced.

    Raises:
        SamMed3DError: RUN_STATE, naming the keys and values that differ; FILE_WRITE.
    """
    path = config.run.out / CONFIG_NAME
    if path.exists() and any((config.run.out / CHECKPOINTS_NAME).glob("[!.]*.pth")):
        _check_same(load_config(path), config)
    with writing(path), replacing(path) as temporary:
        temporary.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def fingerprint(config: TrainConfig) -> str:
    """A digest of all that may not change when a run is resumed; keys that a later version adds do not change it.

    Of the data too: with one case or one label map more, the samples of an epoch are others, and so are their places.
    """
    digest = hashlib.sha256(json.dumps(_bound(config, exclude_defaults=True), sort_keys=True).encode())
    # What is not there is told of by what reads it.
    index = config.data.path / INDEX_NAME if config.data.path is not None else None
    if index is not None and index.is_file():
        digest.update(index.read_bytes())
    for path in config.data.labels:
        with suppress(SamMed3DError):
            files = [(str(file.relative_to(path)), file.stat().st_size) for file in label_files(path)]
            digest.update(json.dumps(files).encode())
    return digest.hexdigest()


def _check_same(old: TrainConfig, new: TrainConfig) -> None:
    before, after = _bound(old), _bound(new)
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if keys:
        listed = "; ".join(f"{key} was {before.get(key)!r} and is {after.get(key)!r}" for key in keys)
        raise SamMed3DError(
            ErrorCode.RUN_STATE,
            f"{new.run.out} holds a run of another configuration: {listed}.",
            "To resume it, take these back; to begin a new run, choose another run.out.",
        )


def _bound(config: TrainConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    flat = _flatten(config.model_dump(mode="json", exclude_defaults=exclude_defaults), "")
    return {key: value for key, value in flat.items() if key in _BOUND_KEYS or not _is_free(key)}


def _is_free(key: str) -> bool:
    return key in _FREE_KEYS or key.split(".", maxsplit=1)[0] in _FREE_SECTIONS


def _flatten(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
