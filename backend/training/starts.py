"""How a network begins: its sizes, its first weights, and what of it is trained."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.models.adapters import has_adapters
from backend.models.checkpoint import load_into, read_state_dict
from backend.models.config import NAMED, CompactConfig, NetworkConfig, resized
from backend.models.inflate import inflate
from backend.models.network import Network, build_network
from backend.models.sam_med3d import SamMed3D
from backend.models.zoo import find_weights
from backend.training.config import ModelSection
from backend.training.freezing import freeze


def build_model(section: ModelSection, seed: int) -> Network:
    """Make the network of a configuration, on the CPU, with what is not trained already frozen.

    From scratch, every layer has PyTorch's own first weights, embeddings are drawn from a normal distribution, and
    position tables are zero, as in the published code, which sets none either.

    Args:
        section: which network, and where its weights come from.
        seed: of the first weights; the generators of torch are left as they were.

    Raises:
        SamMed3DError: CONFIG_INVALID (sizes; a start that the network does not have), and for weights as
            `find_weights`, `read_state_dict`, `load_into` and `inflate`. Weights that cannot be had are never replaced
            by random ones.
    """
    state = read_state_dict(find_weights(section.weights, download=False)) if section.weights is not None else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _make(section, adapted=section.start == "adapters" or has_adapters(state))
    if section.weights is not None:
        _fill(model, state, section.start, section.weights)
    freeze(model, section.freeze)
    return model


def _make(section: ModelSection, *, adapted: bool) -> Network:
    sizes = model_sizes(section)
    if isinstance(sizes, CompactConfig) and section.start in ("inflated", "adapters"):
        raise _refusal(
            f'model.start = "{section.start}" is not for model.name = "{section.name}", which has no 2D counterpart',
            'Choose the network "vit_b_ori", or the start "scratch" or "weights".',
        )
    return build_network(sizes, adapted=adapted)


def model_sizes(section: ModelSection) -> NetworkConfig:
    """The sizes of the network of a configuration.

    Raises:
        SamMed3DError: CONFIG_INVALID, naming what does not fit.
    """
    try:
        return resized(NAMED[section.name], section.sizes)
    except (TypeError, ValueError) as error:
        raise _refusal(
            f"model.sizes = {section.sizes} does not fit the network {section.name!r}: {error}",
            "Correct the sizes, or leave them out.",
        ) from error


def _refusal(problem: str, remedy: str) -> SamMed3DError:
    return SamMed3DError(ErrorCode.CONFIG_INVALID, f"{problem}.", remedy)


def _fill(model: nn.Module, state: dict[str, Tensor], start: str, weights: Path) -> None:
    if start == "weights" or not isinstance(model, SamMed3D):
        load_into(model, state, weights)
        return
    fresh = inflate(model, state, weights)
    if fresh:
        warnings.warn(
            f"The 2D weights {weights} cannot give {len(fresh)} entries of the image encoder ({fresh[0]}, ...), "
            "which start from random values.",
            SamMed3DWarning,
            stacklevel=3,
        )
