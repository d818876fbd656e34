"""How a network begins."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import SamVisionConfig, SamVisionModel

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.models.adapters import AdaptedSamMed3D
from backend.models.checkpoint import save_safetensors
from backend.models.compact import Compact
from backend.models.sam_med3d import SamMed3D
from backend.training.config import ModelSection
from backend.training.freezing import is_frozen
from backend.training.starts import build_model

SIZES: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "width": 24,
    "depth": 2,
    "heads": 2,
    "window": 3,
    "global_blocks": [1],
    "prompt_width": 48,
}


def section(**keys: Any) -> ModelSection:
    return ModelSection(**{"name": "small", "sizes": SIZES} | keys)


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = SamVisionConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=96,
        image_size=32,
        patch_size=4,
        window_size=3,
        global_attn_indexes=[1],
        output_channels=48,
    )
    model = SamVisionModel(config)
    nn.init.normal_(model.vision_encoder.pos_embed)
    save_safetensors(model, tmp_path / "sam.safetensors")
    return tmp_path / "sam.safetensors"


@pytest.mark.parametrize(
    "scratch", [section(), ModelSection(name="compact", sizes={"image_size": 32, "depth": 1})], ids=["small", "compact"]
)
def test_the_seed_decides_the_first_weights(scratch: ModelSection) -> None:
    before = torch.random.get_rng_state()
    assert equal(build_model(scratch, 3), build_model(scratch, 3))
    assert not equal(build_model(scratch, 3), build_model(scratch, 4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sizes_replace_those_of_the_name() -> None:
    small = build_model(section(sizes=SIZES | {"depth": 3}), 0)
    assert isinstance(small, SamMed3D)
    assert len(small.image_encoder.blocks) == 3
    compact = build_model(ModelSection(name="compact", sizes={"image_size": 32, "depth": 1}), 0)
    assert isinstance(compact, Compact)
    assert compact.image_size == 32


@pytest.mark.parametrize("sizes", [{"deep": 3}, {"width": 25}, {"width": 24.0}, {"global_blocks": [7]}, {"depth": -1}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(SamMed3DError, match=next(iter(sizes))) as refused:
        build_model(section(sizes=SIZES | sizes), 0)
    assert refused.value.code == ErrorCode.CONFIG_INVALID


def test_own_weights(tmp_path: Path) -> None:
    first = build_model(section(), 0)
    save_safetensors(first, tmp_path / "weights.safetensors")
    assert equal(build_model(section(start="weights", weights=tmp_path / "weights.safetensors"), 1), first)


def test_published_weights_by_name_are_taken_from_the_cache_and_not_downloaded_by_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    named = section(start="weights", weights=Path("sam_med3d_turbo"))
    with pytest.raises(SamMed3DError, match=r"not downloaded here.*sam_med3d_turbo\.pth"):
        build_model(named, 0)
    first = build_model(section(), 0)
    (tmp_path / "weights").mkdir()
    torch.save({"model_state_dict": first.state_dict()}, tmp_path / "weights" / "sam_med3d_turbo.pth")
    assert equal(build_model(named, 1), first)


@pytest.mark.parametrize("start", ["weights", "inflated", "adapters"])
def test_missing_weights_are_never_replaced_by_random_ones(tmp_path: Path, start: str) -> None:
    with pytest.raises(SamMed3DError, match=r"gone\.pth") as refused:
        build_model(section(start=start, weights=tmp_path / "gone.pth"), 0)
    assert refused.value.code == ErrorCode.FILE_MISSING


def test_weights_of_another_network_are_refused(sam_file: Path) -> None:
    with pytest.raises(SamMed3DError) as refused:
        build_model(section(start="weights", weights=sam_file), 0)
    assert refused.value.code == ErrorCode.CHECKPOINT_MISMATCH


def test_inflated(sam_file: Path) -> None:
    model = build_model(section(start="inflated", weights=sam_file), 0)
    scratch = build_model(section(), 0)
    assert isinstance(model, SamMed3D)
    assert isinstance(scratch, SamMed3D)
    assert model.image_encoder.pos_embed.std() > 0.1
    assert equal(model.mask_decoder, scratch.mask_decoder)
    assert all(parameter.requires_grad for parameter in model.image_encoder.parameters())


def test_what_2d_weights_cannot_give_is_told(sam_file: Path) -> None:
    with pytest.warns(SamMed3DWarning, match=r"6 entries .*neck\.0\.weight"):
        build_model(section(start="inflated", weights=sam_file, sizes=SIZES | {"prompt_width": 96}), 0)


def test_adapters(sam_file: Path, tmp_path: Path) -> None:
    model = build_model(section(start="adapters", weights=sam_file), 0)
    assert isinstance(model, AdaptedSamMed3D)
    inflated = build_model(section(start="inflated", weights=sam_file), 0)
    image = torch.randn(1, 1, 16, 16, 16)
    assert isinstance(inflated, SamMed3D)
    assert torch.equal(model.embed(image), inflated.embed(image))
    assert not model.image_encoder.pos_embed.requires_grad
    assert model.image_encoder.blocks[1].adapter.up.weight.requires_grad
    save_safetensors(model, tmp_path / "adapted.safetensors")
    again = build_model(section(start="weights", weights=tmp_path / "adapted.safetensors"), 1)
    assert isinstance(again, AdaptedSamMed3D)
    assert equal(again, model)


@pytest.mark.parametrize("start", ["inflated", "adapters"])
def test_the_compact_network_has_no_2d_counterpart(sam_file: Path, start: str) -> None:
    with pytest.raises(SamMed3DError, match="compact") as refused:
        build_model(ModelSection(name="compact", start=start, weights=sam_file), 0)
    assert refused.value.code == ErrorCode.CONFIG_INVALID


def test_parts_are_frozen() -> None:
    model = build_model(section(freeze=("image_encoder", "prompt_encoder")), 0)
    assert is_frozen(model.image_encoder)
    assert is_frozen(model.prompt_encoder)
    assert not is_frozen(model.mask_decoder)
