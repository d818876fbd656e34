"""Fit weights of a smaller compact network into the one as it is: `python scripts/grow_weights.py OLD NEW`.

Layers that the old network has not got begin as layers that change nothing, so that both answer the same. OLD is a
.safetensors file of a run, which says its sizes; NEW is for `model.start=weights model.weights=NEW`.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.models.checkpoint import read_weights, save_safetensors
from backend.models.compact import Compact, Step, TokenBlock
from backend.models.config import COMPACT


def main(old: Path, new: Path) -> int:
    """Write the weights of the grown network."""
    torch.manual_seed(0)
    model = Compact(COMPACT)
    grow(model, read_weights(old).state)
    save_safetensors(model, new)
    return 0


def grow(model: Compact, state: dict[str, Tensor]) -> None:
    """Fill a network with the weights of one that has fewer steps or blocks."""
    for name, module in model.named_modules():
        if isinstance(module, Step | TokenBlock) and not any(key.startswith(f"{name}.") for key in state):
            for layer in _last_layers(module):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
    model.load_state_dict(model.state_dict() | state)


def _last_layers(module: Step | TokenBlock) -> list[nn.Module]:
    """What gives the changes that a residual layer adds."""
    return [module.body[-1]] if isinstance(module, Step) else [module.attn.out_proj, module.mlp.lin2]


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
