"""Two ranks, each with half a batch, have the gradients of one process with the whole."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from backend.models.compact import Compact
from backend.models.config import CompactConfig, ModelConfig
from backend.models.sam_med3d import SamMed3D
from backend.training.config import ClickSection
from backend.training.episode import Episode
from backend.training.freezing import freeze

RANKS = 2
SIZES = ModelConfig(
    image_size=16, patch_size=4, width=12, depth=2, heads=2, global_blocks=(1,), prompt_width=48, window=3
)
COMPACT_SIZES = CompactConfig(
    image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=4, decoder_mlp=32
)


def episodes() -> dict[str, Episode]:
    """The same in every process, in float64: one with a frozen part, and one computed again in the backward pass."""
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {"sam_med3d": SamMed3D(SIZES), "compact": Compact(COMPACT_SIZES)}
    frozen = SamMed3D(SIZES)
    freeze(frozen, ["image_encoder"])
    models["frozen"] = frozen
    clicks = ClickSection(interactions=5, mask_only=3, centre_share=0.3)
    for model in models.values():
        freeze(model)
    return {name: Episode(model.double(), clicks, name == "compact").train() for name, model in models.items()}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(4, 1, 16, 16, 16, dtype=torch.bool)
    for sample in range(4):
        mask[sample, :, 2 : 6 + sample, 4:9, 3:12] = True
    return torch.randn(mask.shape, generator=generator, dtype=torch.float64) + mask, mask, torch.tensor([5, 6, 7, 8])


def gradients(module: nn.Module, samples: tuple[Tensor, ...]) -> dict[str, Tensor]:
    module(*samples).loss.mean().backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    half = tuple(part.chunk(RANKS)[rank] for part in batch())
    found = {name: gradients(DistributedDataParallel(episode), half) for name, episode in episodes().items()}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_the_double_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(run_rank, (tmp_path,), nprocs=RANKS)
    for name, episode in episodes().items():
        expected = gradients(episode, batch())
        halves = [gradients(episodes()[name], tuple(part.chunk(RANKS)[rank] for part in batch())) for rank in range(2)]
        differ = 0
        for rank in range(RANKS):
            found = torch.load(tmp_path / f"{rank}.pt")[name]
            assert found.keys() == expected.keys()
            for parameter, gradient in expected.items():
                torch.testing.assert_close(found[parameter], gradient, rtol=1e-6, atol=1e-12)
                differ += not torch.allclose(halves[rank][parameter], gradient, rtol=1e-3)
        assert differ > len(expected)  # the halves alone would not do
