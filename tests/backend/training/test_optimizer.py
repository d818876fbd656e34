"""AdamW's groups and the learning rate over a run."""

import pytest
import torch
from torch import nn

from backend.models.config import ModelConfig
from backend.models.sam_med3d import SamMed3D
from backend.training.config import OptimizerSection
from backend.training.freezing import freeze
from backend.training.optimizer import build_optimizer, group_lrs
from backend.training.schedule import lr_factor, set_lr

PUBLISHED = OptimizerSection()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    config = ModelConfig(
        image_size=16, patch_size=8, width=12, depth=1, heads=2, global_blocks=(0,), prompt_width=48, decoder_depth=1
    )
    model = SamMed3D(config)
    freeze(model)
    return model


def settings(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of each parameter that is trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, PUBLISHED)
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_prompt_encoder_and_decoder_learn_at_a_tenth(model: nn.Module) -> None:
    rates = {name: lr for name, (lr, _) in settings(model).items()}
    assert {lr for name, lr in rates.items() if name.startswith("image_encoder.")} == {8e-4}
    assert {lr for name, lr in rates.items() if not name.startswith("image_encoder.")} == {8e-4 * 0.1}


def test_norms_biases_and_embeddings_do_not_decay(model: nn.Module) -> None:
    decays = {name: decay for name, (_, decay) in settings(model).items()}
    bare = {name for name, decay in decays.items() if decay == 0}
    for name in (
        "image_encoder.pos_embed",
        "image_encoder.blocks.0.norm1.weight",
        "image_encoder.blocks.0.attn.rel_pos_d",
        "image_encoder.blocks.0.attn.qkv.bias",
        "image_encoder.neck.1.weight",
        "prompt_encoder.point_embeddings.0.weight",
        "prompt_encoder.not_a_point_embed.weight",
        "mask_decoder.mask_tokens.weight",
        "mask_decoder.output_upscaling.1.weight",
    ):
        assert name in bare
    decayed = decays.keys() - bare
    assert {decays[name] for name in decayed} == {0.1}
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in decayed)
    for name in ("image_encoder.patch_embed.proj.weight", "image_encoder.blocks.0.mlp.lin1.weight"):
        assert name in decayed


def test_frozen_parameters_are_left_out(model: nn.Module) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert settings(model).keys() == trained
    assert not any("iou_prediction_head" in name for name in trained)


def test_rate_falls_at_the_milestones_and_is_restored_each_cycle() -> None:
    factors = [lr_factor(PUBLISHED, epoch, step=10_000) for epoch in range(800)]
    expected = [1.0] * 120 + [0.1] * 40 + [0.01] * 30 + [0.001] * 10
    assert factors == pytest.approx(expected * 4)


def test_rate_warms_up_by_steps() -> None:
    section = OptimizerSection(warmup_steps=4)
    assert [lr_factor(section, 0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lr_factor(section, 120, step=1) == pytest.approx(0.05)


def test_set_rates_keep_their_proportion(model: nn.Module) -> None:
    optimizer = build_optimizer(model, PUBLISHED)
    for factor in (0.5, 0.1):  # not of what it was before
        set_lr(optimizer, factor)
        assert group_lrs(optimizer) == pytest.approx([8e-4 * factor, 8e-5 * factor])


def test_resumed_state_keeps_the_base_rates(model: nn.Module) -> None:
    optimizer, other = build_optimizer(model, PUBLISHED), build_optimizer(model, PUBLISHED)
    set_lr(optimizer, 0.1)
    other.load_state_dict(optimizer.state_dict())
    set_lr(other, 1.0)
    assert group_lrs(other) == pytest.approx([8e-4, 8e-5])
    assert isinstance(other, torch.optim.AdamW)
