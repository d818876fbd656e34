"""The learning rate, as a pure function of where the run is: nothing to save, nothing to restore."""

from bisect import bisect_right

from torch.optim import Optimizer

from backend.training.config import OptimizerSection


def lr_factor(section: OptimizerSection, epoch: int, step: int) -> float:
    """What the base learning rates are multiplied by.

    The cycle is that of the supplement, C.2: a tenth at the 120th, 160th and 190th of each 200 epochs, and anew at its
    end; the warm-up is not in the paper.

    Args:
        section: cycle, milestones, factor, warm-up.
        epoch: from 0, of the whole run.
        step: optimizer steps made before this one, of the whole run.
    """
    passed = bisect_right(section.milestones, epoch % section.cycle)
    warmth = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    return warmth * section.factor**passed


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Give each parameter group its `base_lr` times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
