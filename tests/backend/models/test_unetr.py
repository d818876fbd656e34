"""The image encoder as the backbone of UNETR."""

from dataclasses import replace

import pytest
import torch

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import ModelConfig
from backend.models.sam_med3d import SamMed3D
from backend.models.unetr import Backbone, build_unetr

CONFIG = ModelConfig(image_size=32, width=24, depth=4, heads=2, window=2, global_blocks=(1, 3), prompt_width=48)


@pytest.mark.parametrize("depth", [4, 12])
def test_blocks_at_quarters_of_the_depth_are_looked_at(depth: int) -> None:
    config = replace(CONFIG, depth=depth)
    encoder = SamMed3D(config).image_encoder
    image = torch.randn(2, 1, 32, 32, 32)
    seen = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tokens, states = Backbone(encoder)(image)
    assert tokens.shape == (2, 8, 24)
    assert len(states) == 12
    for place in (3, 6, 9):
        assert torch.equal(states[place], seen[place * depth // 12].flatten(1, 3))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 8), rtol=0, atol=1e-5)  # normalised


def test_every_block_learns_through_unetr() -> None:
    encoder = SamMed3D(CONFIG).image_encoder
    network = build_unetr(encoder, CONFIG, channels=3, features=4)
    logits = network(torch.randn(1, 1, 32, 32, 32))
    assert logits.shape == (1, 3, 32, 32, 32)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.blocks[0].mlp.parameters())
    assert all(p.grad is None for p in encoder.neck.parameters())
    assert all(p.grad is not None for p in network.parameters())


def test_patches_of_another_size_are_refused() -> None:
    config = replace(CONFIG, patch_size=8)
    with pytest.raises(SamMed3DError, match="8") as refused:
        build_unetr(SamMed3D(config).image_encoder, config, channels=2, features=4)
    assert refused.value.code == ErrorCode.CONFIG_INVALID
