"""The exponential moving average of the weights, which is validated and exported in their stead."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_ema(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """A copy of the model, in its precision (float32), that `update_parameters` moves towards it; None for no decay."""
    if decay is None:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch has no types here
    return AveragedModel(model, multi_avg_fn=average).requires_grad_(False)
