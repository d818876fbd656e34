"""Embeddings of a frozen image encoder, computed once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backend.data.sample import Key
from backend.errors import ErrorCode, SamMed3DError
from backend.models.compact import Compact
from backend.models.config import CompactConfig, ModelConfig
from backend.models.interface import Embedding
from backend.models.sam_med3d import SamMed3D
from backend.training.config import ClickSection
from backend.training.embedding_cache import EmbeddingCache
from backend.training.episode import Episode
from backend.training.freezing import freeze

SIZES = ModelConfig(
    image_size=16, patch_size=4, width=12, depth=2, heads=2, global_blocks=(1,), prompt_width=48, window=3
)
MODELS = {
    "sam_med3d": lambda: SamMed3D(SIZES),
    "compact": lambda: Compact(
        CompactConfig(image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=4, decoder_mlp=32)
    ),
}


class Counting(Episode):
    """Counts the images it embeds."""

    embedded = 0

    def embed(self, image: Tensor) -> Embedding:
        self.embedded += len(image)
        return super().embed(image)


def frozen_episode(name: str, seed: int = 0) -> Counting:
    torch.manual_seed(seed)
    model: nn.Module = MODELS[name]()
    freeze(model, ["image_encoder"])
    return Counting(model, ClickSection(interactions=3, mask_only=1)).train()


@pytest.fixture(params=MODELS)
def episode(request: pytest.FixtureRequest) -> Counting:
    return frozen_episode(request.param)


def images(*indices: int) -> Tensor:
    return torch.stack([torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(i)) for i in indices])


def assert_same(found: Embedding, expected: Embedding) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_image_is_embedded_once(episode: Counting) -> None:
    cache = EmbeddingCache(episode, variants=2)
    first = cache.embed([Key(0, 0), Key(0, 1)], images(0, 1))
    assert_same(first, Episode.embed(episode, images(0, 1)))
    assert episode.embedded == 2
    mixed = cache.embed([Key(2, 1), Key(0, 5), Key(4, 0)], images(1, 5, 0))  # epochs 2 and 4 are variant 0 again
    assert_same(mixed, Episode.embed(episode, images(1, 5, 0)))
    assert episode.embedded == 3


def test_variants_are_kept_apart(episode: Counting) -> None:
    cache = EmbeddingCache(episode, variants=2)
    cache.embed([Key(0, 0)], images(0))
    assert_same(cache.embed([Key(1, 0)], images(7)), Episode.embed(episode, images(7)))
    assert_same(cache.embed([Key(3, 0)], images(0)), Episode.embed(episode, images(7)))


def test_the_loss_and_its_gradient_are_the_same(episode: Counting) -> None:
    mask = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
    mask[..., 4:9, 3:12, 5:9] = True
    key = torch.tensor([1, 2])
    cache = EmbeddingCache(episode, variants=1)
    losses, slopes = [], []
    for embedding in (None, cache.embed([Key(0, 0), Key(0, 1)], images(0, 1))):
        episode.zero_grad()
        loss = episode(images(0, 1), mask, key, embedding).loss
        loss.mean().backward()
        losses.append(loss.detach())
        slopes.append([p.grad for p in episode.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)


def test_memory_is_limited(episode: Counting) -> None:
    one = EmbeddingCache(episode, variants=1, limit_bytes=0)
    for _ in range(2):
        assert_same(one.embed([Key(0, 0)], images(0)), Episode.embed(episode, images(0)))
    assert episode.embedded == 2


def test_the_disk_outlasts_the_process(episode: Counting, tmp_path: Path) -> None:
    expected = EmbeddingCache(episode, variants=1, folder=tmp_path).embed([Key(0, 0)], images(0))
    again = EmbeddingCache(episode, variants=1, limit_bytes=0, folder=tmp_path)
    assert_same(again.embed([Key(0, 0)], images(0)), expected)
    assert episode.embedded == 1


def test_embeddings_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    for seed in (0, 1):
        episode = frozen_episode("sam_med3d", seed)
        cache = EmbeddingCache(episode, variants=1, folder=tmp_path)
        assert_same(cache.embed([Key(0, 0)], images(0)), Episode.embed(episode, images(0)))


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    episode = frozen_episode("sam_med3d")
    expected = EmbeddingCache(episode, variants=1, folder=tmp_path).embed([Key(0, 0)], images(0))
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    cache = EmbeddingCache(episode, variants=1, folder=tmp_path)
    assert_same(cache.embed([Key(0, 0)], images(0)), expected)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SamMed3DError, match="file") as refused:
        EmbeddingCache(frozen_episode("sam_med3d"), variants=1, folder=tmp_path / "file")
    assert refused.value.code == ErrorCode.FILE_WRITE


def test_a_trained_encoder_has_no_cache() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EmbeddingCache(Episode(SamMed3D(SIZES), ClickSection()), variants=1)
    with pytest.raises(ValueError, match="frozen"):
        EmbeddingCache(frozen_episode("sam_med3d"), variants=0)
