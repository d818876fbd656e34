"""What is not trained."""

import pytest
from torch import nn

from backend.models.compact import Compact
from backend.models.config import SMALL, CompactConfig
from backend.models.sam_med3d import SamMed3D
from backend.training.freezing import freeze, is_frozen


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_clicks_never_reach_is_not_trained() -> None:
    model = SamMed3D(SMALL)
    everything = trained(model)
    freeze(model)
    left = everything - trained(model)
    assert {name.rsplit(".", 3)[0] for name in left if "hyper" in name} == {
        f"mask_decoder.output_hypernetworks_mlps.{head}" for head in (1, 2, 3)
    }
    rest = {name for name in left if "hyper" not in name}
    assert {name for name in rest if "iou_prediction_head" not in name} == {"prompt_encoder.no_mask_embed.weight"}
    assert len(rest) == 7  # three linear layers


@pytest.mark.parametrize("part", ["image_encoder", "prompt_encoder", "mask_decoder"])
def test_a_part_is_frozen(part: str) -> None:
    model = Compact(CompactConfig(image_size=32, depth=1))
    assert not is_frozen(model)
    freeze(model, [part])
    assert is_frozen(getattr(model, part))
    assert {name.split(".")[0] for name in trained(model)} == {
        "image_encoder",
        "prompt_encoder",
        "mask_decoder",
    } - {part}


def test_names_are_whole() -> None:
    model = nn.ModuleDict({"head": nn.Linear(1, 1), "head2": nn.Linear(1, 1)})
    freeze(model, ["head"])
    assert trained(model) == {"head2.weight", "head2.bias"}
