"""What is not trained."""

from collections.abc import Iterable

from torch import nn


def freeze(model: nn.Module, parts: Iterable[str] = ()) -> None:
    """Take parts of a model out of training, and what an episode of clicks never reaches.

    The latter are named by the model's attribute `untrained`, where it has one. Left in, they would have no gradient,
    over which DistributedDataParallel stumbles, or one of zero, by which weight decay shrinks them.

    Args:
        model: of the interface, with the parts as attributes.
        parts: of image_encoder, prompt_encoder and mask_decoder.
    """
    stopped = (*parts, *getattr(model, "untrained", ()))
    for name, parameter in model.named_parameters():
        if any(f"{name}.".startswith(f"{stop}.") for stop in stopped):
            parameter.requires_grad_(False)


def is_frozen(part: nn.Module) -> bool:
    """Whether nothing of a part is trained."""
    return not any(parameter.requires_grad for parameter in part.parameters())
