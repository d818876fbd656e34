"""Embeddings of a frozen image encoder, computed once: with them a few cases are learned in minutes on a laptop."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from backend.data.sample import Key
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.models.interface import Embedding, map_embedding
from backend.training.episode import Episode
from backend.training.freezing import is_frozen

_SINGLE = "embedding"


class EmbeddingCache:
    """What the image encoder makes of each crop, kept in memory and, if asked, on the disk.

    Of a mask there are as many crops as the data has variants (`DataSection.variants`): that of epoch e is variant
    e modulo their number.

    Args:
        episode: of a model whose image encoder is frozen.
        variants: crops of a mask, at least 1.
        limit_bytes: of memory; what is beyond is read from the disk, or computed again.
        folder: where to keep them over the end of the process; those of other weights are not taken.

    Raises:
        SamMed3DError: FILE_WRITE, for the folder.
    """

    def __init__(self, episode: Episode, variants: int, limit_bytes: int = 2 << 30, folder: Path | None = None) -> None:
        encoder = cast(nn.Module, episode.model.image_encoder)
        if variants < 1 or not is_frozen(encoder):
            raise ValueError("embeddings stay the same only where the encoder is frozen and crops come again")
        self._episode = episode
        self._variants = variants
        self._room = limit_bytes
        self._memory: dict[Key, Embedding] = {}
        self._folder = None if folder is None else folder / _digest(encoder)
        if self._folder is not None:
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)

    def embed(self, keys: Sequence[Key], image: Tensor) -> Embedding:
        """The embedding of images (B, 1, S, S, S) with these keys (B), on their device, without gradient.

        Raises:
            SamMed3DError: FILE_WRITE, for the folder.
        """
        keys = [Key(key.epoch % self._variants, key.index) for key in keys]
        found = {key: embedding for key in keys if (embedding := self._find(key)) is not None}
        missing = [row for row, key in enumerate(keys) if key not in found]
        if missing:
            fresh = map_embedding(Tensor.cpu, self._episode.embed(image[missing]))
            for place, row in enumerate(missing):
                found[keys[row]] = map_embedding(partial(_copy, place), fresh)
                self._remember(keys[row], found[keys[row]])
                self._write(keys[row], found[keys[row]])
        return map_embedding(lambda tensor: tensor.to(image.device), _stack([found[key] for key in keys]))

    def _find(self, key: Key) -> Embedding | None:
        if key in self._memory or self._folder is None:
            return self._memory.get(key)
        embedding = _read(self._folder / _name(key))
        if embedding is not None:
            self._remember(key, embedding)
        return embedding

    def _remember(self, key: Key, embedding: Embedding) -> None:
        size = sum(tensor.nbytes for tensor in _named(embedding).values())
        if size <= self._room:
            self._memory[key] = embedding
            self._room -= size

    def _write(self, key: Key, embedding: Embedding) -> None:
        if self._folder is not None:
            path = self._folder / _name(key)
            with writing(path), replacing(path) as temporary:
                temporary.write_bytes(save(_named(embedding)))


def _name(key: Key) -> str:
    return f"{key.epoch}-{key.index}.safetensors"


def _named(embedding: Embedding) -> dict[str, Tensor]:
    if isinstance(embedding, Tensor):
        return {_SINGLE: embedding}
    return {str(level): tensor for level, tensor in enumerate(embedding)}


def _read(path: Path) -> Embedding | None:
    try:
        tensors = load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):  # not there, or damaged: it is made again
        return None
    return tensors[_SINGLE] if _SINGLE in tensors else tuple(tensors[str(level)] for level in range(len(tensors)))


def _copy(row: int, tensor: Tensor) -> Tensor:
    """A copy, since a view would keep the whole batch alive."""
    return tensor[row].clone(memory_format=torch.contiguous_format)


def _stack(embeddings: Sequence[Embedding]) -> Embedding:
    if isinstance(embeddings[0], Tensor):
        return torch.stack(cast(list[Tensor], embeddings))
    return tuple(torch.stack(level) for level in zip(*embeddings, strict=True))


def _digest(encoder: nn.Module) -> str:
    """Of names and values of the weights, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
