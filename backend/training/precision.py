"""In which precision a run computes, and the loss scale that float16 needs."""

import torch

from backend.device import Precision


def training_precision(device: torch.device, asked: Precision = "auto") -> Precision:
    """The precision asked for, or for "auto" what the device is fastest in.

    That is bfloat16 on a GPU that has it in hardware, float16 on other CUDA GPUs, and float32 elsewhere.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def build_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """The loss scale that keeps small gradients from vanishing in float16; in other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
