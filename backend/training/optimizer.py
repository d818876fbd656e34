"""AdamW with a learning rate for each part of the network, and no decay where decay does harm."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from backend.training.config import OptimizerSection

_SCALED_PARTS = ("prompt_encoder.", "mask_decoder.")
_EMBEDDINGS = ("pos_embed", "rel_pos")


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained.

    The prompt encoder and the mask decoder learn at `prompt_decoder_scale` of the learning rate (published training
    code). Norms, biases and embeddings, that is whatever is a vector, an `nn.Embedding`, a position embedding or a
    table of relative positions, are not decayed.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = section.lr * (section.prompt_decoder_scale if name.startswith(_SCALED_PARTS) else 1.0)
        bare = parameter.ndim < 2 or parameter in embeddings or any(kind in name for kind in _EMBEDDINGS)
        groups[lr, 0.0 if bare else section.weight_decay].append(parameter)
    tables: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    fused = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(tables, betas=section.betas, fused=fused)


def group_lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rates in use, the highest first."""
    return sorted({float(group["lr"]) for group in optimizer.param_groups}, reverse=True)
