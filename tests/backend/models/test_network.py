"""The network equals the published code on deterministic weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deterministic import fill_module, volume
from torch import Tensor

from backend.errors import ErrorCode, SamMed3DError
from backend.models.config import SMALL, VIT_B_ORI, ModelConfig
from backend.models.sam_med3d import SamMed3D

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared" / "reference"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference arrays are not beside the repository")


def shapes(model: SamMed3D) -> dict[str, list[int]]:
    return {name: list(entry.shape) for name, entry in model.state_dict().items()}


def filled(config: ModelConfig) -> SamMed3D:
    model = SamMed3D(config)
    fill_module(model)
    return model.eval()


@pytest.fixture(scope="module")
def small() -> SamMed3D:
    return filled(SMALL)


def test_small_state_dict() -> None:
    assert shapes(SamMed3D(SMALL)) == json.loads((FIXTURES / "small_state_dict.json").read_text())


@needs_shared
def test_full_state_dict() -> None:
    with torch.device("meta"):
        model = SamMed3D(VIT_B_ORI)
    assert shapes(model) == json.loads((SHARED / "vit_b_ori_state_dict.json").read_text())
    assert len(shapes(model)) == 324


def predict_all(
    model: SamMed3D, embedding: Tensor, points: Tensor, labels: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the logits and the IoU of all heads."""
    sparse, dense = model.prompt_encoder(points, labels, mask)
    logits, iou = model.mask_decoder(embedding, model.prompt_encoder.dense_pe(), sparse, dense)
    return logits, iou


def replay(model: SamMed3D, reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute what the reference holds: the clicks so far with its logits before them, a mask alone, clicks alone.

    The reference's own logits are fed back, not ours: a chain of five predictions magnifies any rounding tenfold.
    """
    clicks, labels, encoder = reference["clicks"][None], reference["labels"][None], model.prompt_encoder
    embedding = model.embed(torch.from_numpy(volume(model.image_size))[None, None])
    found = {"embedding": embedding, "dense_pe": encoder.dense_pe()}
    mask = model.empty_mask(1)
    found["sparse_0"], found["dense_0"] = encoder(clicks[:, :1], labels[:, :1], mask)
    for count in range(1, clicks.shape[1] + 1):
        logits, iou = predict_all(model, embedding, clicks[:, :count], labels[:, :count], mask)
        found |= {f"low_res_logits_{count - 1}": logits[:, :1], f"iou_{count - 1}": iou[:, :1]}
        if count == 1:
            found |= {"multimask_logits_0": logits[:, 1:], "multimask_iou_0": iou[:, 1:]}
        mask = reference[f"low_res_logits_{count - 1}"]
    found["mask_only_logits"] = model.decode(embedding, clicks[:, :0], labels[:, :0], mask)
    found["points_only_logits"] = predict_all(model, embedding, clicks, labels, None)[0][:, :1]
    return found


def check_reference(model: SamMed3D, path: Path) -> None:
    with np.load(path) as file:
        reference = {name: torch.from_numpy(file[name]) for name in file}
    with torch.no_grad():
        found = replay(model, reference)
    assert found.keys() == reference.keys() - {"clicks", "labels"}
    errors = {name: relative_error(array, reference[name]) for name, array in found.items()}
    assert max(errors.values()) < 1e-5, errors


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_small_reference(small: SamMed3D) -> None:
    check_reference(small, FIXTURES / "small.npz")


@needs_shared
@pytest.mark.slow
def test_full_reference() -> None:
    check_reference(filled(VIT_B_ORI), SHARED / "vit_b_ori.npz")


def prompts(*labels: int) -> tuple[Tensor, Tensor]:
    points = torch.arange(3 * len(labels)).reshape(1, -1, 3)
    return points, torch.tensor([labels], dtype=torch.int64).reshape(1, -1)


@torch.no_grad()
def test_decode_is_the_first_head(small: SamMed3D) -> None:
    image, mask = torch.from_numpy(volume(64))[None, None], small.empty_mask(1)
    logits = small(image, *prompts(1, 0), mask)
    assert torch.equal(logits, predict_all(small, small.embed(image), *prompts(1, 0), mask)[0][:, :1])
    assert logits.shape == (1, 1, small.logits_size, small.logits_size, small.logits_size)


@torch.no_grad()
def test_batch_equals_one_at_a_time(small: SamMed3D) -> None:
    images = torch.randn(2, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    points, labels = torch.tensor([[[3, 5, 7]], [[40, 20, 10]]]), torch.tensor([[1], [0]])
    both = small(images, points, labels, small.empty_mask(2))
    each = [small(images[i : i + 1], points[i : i + 1], labels[i : i + 1], small.empty_mask(1)) for i in range(2)]
    assert relative_error(both, torch.cat(each)) < 1e-5


@pytest.mark.parametrize(("labels", "tokens"), [((), 0), ((1,), 2), ((1, 0), 3), ((2, 3), 2), ((1, 2, 3), 3)])
def test_not_a_point_token_follows_clicks_without_a_box(labels: tuple[int, ...], tokens: int) -> None:
    model = filled(replace(SMALL, box_prompts=True))
    assert model.supports_boxes
    sparse = model.prompt_encoder.embed_points(*prompts(*labels))
    assert sparse.shape == (1, tokens, SMALL.prompt_width)


def test_box_corners_have_embeddings_of_their_own() -> None:
    encoder = filled(replace(SMALL, box_prompts=True)).prompt_encoder
    points = torch.full((1, 2, 3), 5.0)
    first, second = encoder.embed_points(points, torch.tensor([[2, 3]]))[0]
    own = encoder.point_embeddings
    torch.testing.assert_close(second - first, (own[3].weight - own[2].weight)[0])


@pytest.mark.parametrize("label", [2, 3, 4, -2])
def test_unknown_label_is_an_error(small: SamMed3D, label: int) -> None:
    with pytest.raises(SamMed3DError) as raised:
        small.prompt_encoder(*prompts(1, label), small.empty_mask(1))
    assert raised.value.code == ErrorCode.PROMPT_INVALID


@torch.no_grad()
def test_wrong_shapes_are_errors(small: SamMed3D) -> None:
    embedding, (points, labels), mask = torch.zeros(1, 48, 4, 4, 4), prompts(1), small.empty_mask(1)
    with pytest.raises(ValueError, match=r"image has the shape \(1, 1, 8, 8, 8\)"):
        small.embed(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="embedding"):
        small.decode(embedding[:, :5], points, labels, mask)
    with pytest.raises(ValueError, match="points"):
        small.decode(embedding, points[0], labels, mask)
    with pytest.raises(ValueError, match="labels"):
        small.decode(embedding, points, labels[0], mask)
    with pytest.raises(ValueError, match="mask_logits"):
        small.decode(embedding, points, labels, mask[0])


def test_autocast_trains_with_finite_gradients() -> None:
    model = filled(SMALL).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.from_numpy(volume(64))[None, None], *prompts(1), model.empty_mask(1))
    logits.float().square().mean().backward()
    assert torch.isfinite(logits).all()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    missing = {name.split(".")[1] for name, gradient in gradients.items() if gradient is None}
    assert missing == {"iou_prediction_head", "no_mask_embed"}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values() if gradient is not None)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"width": 0}, "width must be positive"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be positive"),
        ({"image_size": 100}, "image_size 100 must be a multiple of patch_size"),
        ({"heads": 5}, "width 768 must be a multiple of heads"),
        ({"prompt_width": 64}, "prompt_width 64 must be a multiple of 3"),
        ({"prompt_width": 36}, "prompt_width 36 must be a multiple of 8"),
        ({"prompt_width": 24}, "prompt_width 24 must be a multiple of 2 \\* decoder_heads"),
        ({"global_blocks": (12,)}, "global_blocks"),
    ],
)
def test_sizes_must_fit(sizes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ModelConfig(**sizes)


def test_sizes() -> None:
    assert (VIT_B_ORI.grid, VIT_B_ORI.logits_size) == (8, 32)
    assert (SMALL.grid, SMALL.logits_size) == (4, 16)
