"""Fit weights of a smaller compact network into the one as it is: `python scripts/grow_weights.py OLD NEW`.

Layers that the old network has not got begin as layers that change nothing, so that both answer the same. OLD is a
.safetensors file of a run, which says its sizes; NEW is for `model.start=weights model.weights=NEW`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the network of this clone, whatever is installed

from backend.cli import exit_status
from backend.errors import ErrorCode, SamMed3DError
from backend.models.checkpoint import load_into, read_weights, save_safetensors
from backend.models.compact import Compact, Step, TokenBlock
from backend.models.config import COMPACT


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("old", type=Path, help="weights of the smaller network")
    out.add_argument("new", type=Path, help="where those of the larger one go")
    return out


def run(options: argparse.Namespace) -> None:
    """Write the weights of the grown network."""
    torch.manual_seed(0)
    model = Compact(COMPACT)
    grow(model, read_weights(options.old).state)
    save_safetensors(model, options.new)


def grow(model: Compact, state: dict[str, Tensor]) -> None:
    """Fill a network with the weights of one that has fewer steps or blocks.

    Raises:
        SamMed3DError: CHECKPOINT_MISMATCH, it lacks something else; as `load_into`.
    """
    fresh = {
        f"{name}.": module
        for name, module in model.named_modules()
        if isinstance(module, Step | TokenBlock) and not any(key.startswith(f"{name}.") for key in state)
    }
    missing = [key for key in model.state_dict() if key not in state and not key.startswith(tuple(fresh))]
    if missing:
        raise SamMed3DError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"The old weights lack {len(missing)} entries ({missing[0]}, ...) beside steps and blocks.",
            "Give those of a compact network that has all else.",
        )
    for module in fresh.values():
        for layer in _last_layers(module):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
    load_into(model, model.state_dict() | state, "the old weights")


def _last_layers(module: Step | TokenBlock) -> list[nn.Module]:
    """What gives the changes that a residual layer adds."""
    return [module.body[-1]] if isinstance(module, Step) else [module.attn.out_proj, module.mlp.lin2]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return exit_status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
