"""The network with 3D adapters."""

from pathlib import Path

import pytest
import torch
from deterministic import fill_module
from torch import Tensor

from backend.models.adapters import AdaptedSamMed3D, Adapter
from backend.models.checkpoint import load_into, load_model, read_state_dict, save_published, save_safetensors
from backend.models.config import ModelConfig
from backend.models.sam_med3d import SamMed3D
from backend.training.freezing import freeze

CONFIG = ModelConfig(
    image_size=16, patch_size=4, width=24, depth=3, heads=2, window=3, global_blocks=(1,), prompt_width=48
)


@pytest.fixture
def adapted() -> AdaptedSamMed3D:
    torch.manual_seed(0)
    return AdaptedSamMed3D(CONFIG, bottleneck=8).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_new_adapter_changes_nothing(adapted: AdaptedSamMed3D, image: Tensor) -> None:
    plain = SamMed3D(CONFIG).eval()
    fill_module(plain)
    state = dict(adapted.state_dict())
    load_into(adapted, state | plain.state_dict(), "plain weights")  # the names of the plain network are all there
    assert torch.equal(adapted.embed(image), plain.embed(image))
    adapted.image_encoder.blocks[0].adapter.up.weight.data.normal_()
    assert not torch.allclose(adapted.embed(image), plain.embed(image))


def test_windows_are_those_of_the_plain_network(adapted: AdaptedSamMed3D) -> None:
    windows = [block.attn.window for block in SamMed3D(CONFIG).image_encoder.blocks]
    assert [block.attn.window for block in adapted.image_encoder.blocks] == windows


def test_an_adapter_sees_all_three_axes() -> None:
    adapter = Adapter(6, 4)
    torch.nn.init.normal_(adapter.up.weight)
    x_BDHWC = torch.zeros(1, 5, 5, 5, 6, requires_grad=True)
    (adapter(x_BDHWC)[0, 2, 2, 2] - x_BDHWC[0, 2, 2, 2]).sum().backward()
    assert x_BDHWC.grad is not None
    seen = x_BDHWC.grad[0].abs().sum(-1) > 0
    assert seen[1:4, 1:4, 1:4].all()
    assert seen.sum() == 27


def test_only_adapters_and_neck_of_the_encoder_are_trained(adapted: AdaptedSamMed3D) -> None:
    freeze(adapted)
    trained = {name for name, parameter in adapted.image_encoder.named_parameters() if parameter.requires_grad}
    names = dict(adapted.image_encoder.named_parameters())
    assert trained == {name for name in names if ".adapter." in name or name.startswith("neck.")}
    assert sum(".adapter." in name for name in trained) == 3 * 6
    assert all(p.requires_grad for p in adapted.mask_decoder.transformer.parameters())
    assert not any(p.requires_grad for p in adapted.mask_decoder.iou_prediction_head.parameters())


@pytest.mark.parametrize("save", [save_safetensors, save_published])
def test_weights_are_read_again(adapted: AdaptedSamMed3D, image: Tensor, tmp_path: Path, save) -> None:
    fill_module(adapted)
    save(adapted, tmp_path / "weights.pth")
    again = AdaptedSamMed3D(CONFIG, bottleneck=8).eval()
    load_into(again, read_state_dict(tmp_path / "weights.pth"), "weights")
    assert torch.equal(again.embed(image), adapted.embed(image))


def test_a_file_with_adapters_makes_a_network_with_adapters(tmp_path: Path, image: Tensor) -> None:
    adapted = AdaptedSamMed3D(CONFIG)
    fill_module(adapted)
    save_safetensors(adapted, tmp_path / "weights.safetensors")
    again = load_model(tmp_path / "weights.safetensors", CONFIG)
    assert isinstance(again, AdaptedSamMed3D)
    assert torch.equal(again.embed(image), adapted.eval().embed(image))
