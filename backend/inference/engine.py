"""A model on a device: arrays in, arrays out, and the way back to the CPU when the GPU is full."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.device import Precision, autocast, is_out_of_memory
from backend.errors import SamMed3DWarning
from backend.models.interface import Embedding, PromptModel, map_embedding

T = TypeVar("T")
Floats = npt.NDArray[np.float32]


class Engine:
    """Runs a model without gradients, on `device`, until that is out of memory; then on the CPU.

    Args:
        model: in evaluation mode.
        device: where to run it.
        precision: of the image encoder; the decoder, which is cheap, runs in float32.
    """

    def __init__(self, model: PromptModel, device: torch.device, precision: Precision = "auto") -> None:
        self.model = model
        self.device = device
        self._precision = precision
        self._on_device(lambda: model.to(self.device))

    @torch.inference_mode()
    def embed(self, image: Floats) -> Embedding:
        """The embedding of one normalised crop (S, S, S), on the device."""

        def run() -> Embedding:
            with autocast(self.device, self._precision):
                embedding = self.model.embed(torch.from_numpy(image).to(self.device)[None, None])
            return map_embedding(Tensor.float, embedding)

        return self._on_device(run)

    @torch.inference_mode()
    def decode(self, embedding: Embedding, points: npt.ArrayLike, labels: npt.ArrayLike, previous: Floats) -> Floats:
        """Logits (L, L, L) for points (N, 3) in crop voxels, their labels (N,), and previous logits (L, L, L)."""

        def run() -> Tensor:
            return self.model.decode(
                map_embedding(lambda tensor: tensor.to(self.device), embedding),
                torch.as_tensor(np.asarray(points, dtype=np.float32), device=self.device)[None],
                torch.as_tensor(np.asarray(labels, dtype=np.int64), device=self.device)[None],
                torch.from_numpy(previous).to(self.device)[None, None],
            )

        logits: Floats = self._on_device(run)[0, 0].float().cpu().numpy()
        return logits

    def _on_device(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
            message = (
                f"The {self.device.type} device is out of memory ({error}); continuing on the CPU, which is slower."
            )
        warnings.warn(message, SamMed3DWarning, stacklevel=3)
        self.device = torch.device("cpu")
        self.model.to(self.device)
        return run()
