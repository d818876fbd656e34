"""2D SAM weights made three-dimensional, tried on a randomly initialised SAM of the transformers library."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from deterministic import fill_module
from torch import Tensor
from transformers import SamVisionConfig, SamVisionModel

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import ModelConfig
from backend.models.inflate import inflate
from backend.models.sam_med3d import SamMed3D

CONFIG = ModelConfig(
    image_size=24, patch_size=4, width=24, depth=3, heads=2, window=5, global_blocks=(1,), prompt_width=48
)


def sam(neck: int = CONFIG.prompt_width, image_size: int = 40) -> SamVisionModel:
    """A 2D SAM of the same width and depth, on a grid of 10 x 10 tokens, with values everywhere."""
    config = SamVisionConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_dim=96,
        image_size=image_size,
        patch_size=4,
        window_size=5,
        global_attn_indexes=[1],
        output_channels=neck,
    )
    model = SamVisionModel(config)
    fill_module(model)
    return model.eval()


def original_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `sam_vit_b_01ec64.pth` names them, with entries of the other parts beside."""
    renamed = {"prompt_encoder.no_mask_embed.weight": torch.ones(1, 256)}
    neck = {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"}
    for name, tensor in state.items():
        parts = name.removeprefix("vision_encoder.").split(".")
        parts[0] = "blocks" if parts[0] == "layers" else parts[0]
        if parts[0] == "neck":
            parts[1] = neck[parts[1]]
        parts = ["proj" if p == "projection" else p.replace("layer_norm", "norm") for p in parts]
        renamed["image_encoder." + ".".join(parts)] = tensor
    return renamed


def inflated(state: Mapping[str, Tensor], config: ModelConfig = CONFIG) -> tuple[SamMed3D, tuple[str, ...]]:
    model = SamMed3D(config)
    return model, inflate(model, state, "sam.pth")


def test_both_ways_of_naming_give_the_same() -> None:
    state = sam().state_dict()
    one, kept = inflated(state)
    other, _ = inflated(original_names(state))
    assert kept == ()
    for name, tensor in one.image_encoder.state_dict().items():
        assert torch.equal(tensor, other.image_encoder.state_dict()[name]), name


def test_a_slice_repeated_along_z_gives_the_patches_of_the_slice() -> None:
    flat = sam()
    model, _ = inflated(flat.state_dict())
    slice_xy = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    colours = slice_xy.T.expand(1, 3, -1, -1)  # rows run along y
    expected_1HWC = flat.vision_encoder.patch_embed.projection(colours).permute(0, 2, 3, 1)
    found_1XYZC = model.image_encoder.patch_embed(slice_xy[None, None, :, :, None].expand(1, 1, -1, -1, 24))
    for z in range(6):
        torch.testing.assert_close(found_1XYZC[:, :, :, z], expected_1HWC.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_positions_keep_the_plane_and_copy_x_to_z() -> None:
    flat = sam(image_size=24)  # the same grid, so that nothing is interpolated
    model, _ = inflated(flat.state_dict())
    positions_XYZC = model.image_encoder.pos_embed[0]
    plane_XYC = flat.vision_encoder.pos_embed[0].transpose(0, 1)
    torch.testing.assert_close(positions_XYZC.mean(2), plane_XYC)
    along_x = positions_XYZC.mean((1, 2))
    torch.testing.assert_close(positions_XYZC.mean((0, 1)), along_x)
    assert along_x.std() > 0.01


def test_positions_are_interpolated() -> None:
    flat = sam(image_size=48)
    ramp = torch.arange(12.0).expand(12, 12)  # grows with the column
    flat.vision_encoder.pos_embed.data[:] = ramp[None, ..., None]
    model, _ = inflated(flat.state_dict())
    x = 2 * torch.arange(6.0) + 0.5  # of two columns each
    expected_XYZ = x[:, None, None] + (x - x.mean())
    torch.testing.assert_close(model.image_encoder.pos_embed[0, ..., 5], expected_XYZ.expand(6, 6, 6))


def test_relative_positions() -> None:
    flat = sam()
    model, _ = inflated(flat.state_dict())
    for index, block in enumerate(model.image_encoder.blocks):
        own, attention = block.attn, flat.vision_encoder.layers[index].attn
        assert torch.equal(own.rel_pos_d, own.rel_pos_w)  # z is as x
        if index == 1:  # global: 2 * 10 - 1 rows to 2 * 6 - 1, the middle one in the middle
            assert own.rel_pos_h.shape == (11, 12)
            torch.testing.assert_close(own.rel_pos_h[5], attention.rel_pos_h[9])
            torch.testing.assert_close(own.rel_pos_d[5], attention.rel_pos_w[9])
        else:
            torch.testing.assert_close(own.rel_pos_h, attention.rel_pos_h)
            torch.testing.assert_close(own.rel_pos_d, attention.rel_pos_w)


def test_a_volume_constant_along_z_is_seen_as_its_slice() -> None:
    """Without positions, more of the same tokens along z change no mean over the keys: the encoders must agree."""
    flat = sam(image_size=20)
    for name, parameter in flat.named_parameters():
        if "pos" in name:
            parameter.data.zero_()
    model, _ = inflated(flat.state_dict(), replace(CONFIG, image_size=20))
    slice_xy = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_1CHW = flat(slice_xy.T.expand(1, 3, -1, -1)).last_hidden_state
        found_1CXYZ = model.image_encoder(slice_xy[None, None, :, :, None].expand(-1, -1, -1, -1, 20))
    middle_1CXY = found_1CXYZ[..., 2]  # away from the zeros that the neck's convolution adds along z
    torch.testing.assert_close(middle_1CXY, expected_1CHW.transpose(2, 3), rtol=1e-3, atol=1e-3)


def test_a_neck_of_another_width_stays() -> None:
    model = SamMed3D(CONFIG)
    neck = {name: tensor.clone() for name, tensor in model.image_encoder.neck.state_dict().items()}
    rest = {name: t.clone() for name, t in model.state_dict().items() if not name.startswith("image_encoder")}
    kept = inflate(model, sam(neck=32).state_dict(), "sam.pth")
    assert kept == tuple(f"image_encoder.neck.{name}" for name in neck)
    assert all(torch.equal(tensor, neck[name]) for name, tensor in model.image_encoder.neck.state_dict().items())
    assert all(torch.equal(tensor, rest[name]) for name, tensor in model.state_dict().items() if name in rest)


def damaged(kind: str) -> dict[str, Tensor]:
    state = original_names(sam().state_dict())
    if kind == "missing":
        del state["image_encoder.blocks.1.attn.rel_pos_w"]
    if kind == "unexpected":
        state["image_encoder.blocks.3.norm1.weight"] = torch.ones(24)
    if kind == "shape":
        state["image_encoder.patch_embed.proj.weight"] = torch.ones(24, 3, 8, 8)
    if kind == "3D":
        return dict(SamMed3D(CONFIG).state_dict())
    if kind == "another":
        return {"weight": torch.ones(3)}
    return state


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing", "image_encoder.blocks.1.attn.rel_pos_d"),
        ("unexpected", "image_encoder.blocks.3.norm1.weight"),
        ("shape", "(24, 1, 8, 8, 4) for (24, 1, 4, 4, 4)"),
        ("3D", "image_encoder.blocks.0.attn.rel_pos_d"),
        ("another", "image_encoder.pos_embed"),
    ],
)
def test_other_weights_are_refused(kind: str, named: str) -> None:
    model = SamMed3D(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SamMed3DError, match=r"sam\.pth") as refused:
        inflate(model, damaged(kind), "sam.pth")
    assert refused.value.code == ErrorCode.CHECKPOINT_MISMATCH
    assert named in refused.value.problem
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_values_that_are_not_finite_are_refused() -> None:
    state = sam().state_dict()
    state["vision_encoder.pos_embed"][0, 3, 4, 5] = torch.nan
    with pytest.raises(SamMed3DError) as refused:
        inflated(state)
    assert refused.value.code == ErrorCode.CHECKPOINT_VALUES
