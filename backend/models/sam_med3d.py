"""The whole network: an image is embedded once, then decoded for each set of prompts."""

from torch import Tensor

from backend.models.config import ModelConfig
from backend.models.image_encoder import ImageEncoder
from backend.models.mask_decoder import MASKS, MaskDecoder
from backend.models.prompt_encoder import PromptEncoder
from backend.models.prompt_network import PromptNetwork


class SamMed3D(PromptNetwork[ModelConfig]):
    """SAM-Med3D (Wang et al. 2023), with the state-dict names of the published weights.

    Everywhere the axes are in the network's order, (x, y, z); points are in voxels of the image given to `embed`.

    Args:
        config: the sizes of the network.
    """

    # Quirk 6 kept for compatibility: what clicks never train, neither in the published weights nor here.
    untrained: tuple[str, ...] = (
        "prompt_encoder.no_mask_embed",
        "mask_decoder.iou_prediction_head",
        *(f"mask_decoder.output_hypernetworks_mlps.{head}" for head in range(1, MASKS)),
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def embed(self, image: Tensor) -> Tensor:
        """Embed images, once for all prompts.

        Args:
            image: (B, 1, S, S, S) normalised intensities, S the image size.

        Returns:
            The embedding, (B, C, grid, grid, grid).

        Raises:
            ValueError: if the shape is another one.
        """
        self._check("image", image, (len(image), 1, *3 * (self.image_size,)))
        embedding: Tensor = self.image_encoder(image)
        return embedding

    def decode(self, embedding: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Predict the mask of one set of prompts for each embedded image.

        Quirk 7 kept for compatibility: the network was trained on the newest click together with its own previous
        logits, and does best when it is used so.

        Args:
            embedding: (B, C, grid, grid, grid), from `embed`.
            points: (B, N, 3) voxel coordinates in the image, whole numbers being voxel centres; N may be 0.
            labels: (B, N) integers: 1 positive, 0 negative, 2 and 3 the two corners of a box, -1 not a point.
            mask_logits: (B, 1, L, L, L), from an earlier `decode` or from `empty_mask`.

        Returns:
            The logits of the mask, (B, 1, L, L, L); above 0 is inside.

        Raises:
            ValueError: if the shapes do not fit each other or the network.
            SamMed3DError: `PROMPT_INVALID` if a label is none that the network knows.
        """
        batch, grid = len(embedding), self.config.grid
        self._check("embedding", embedding, (batch, self.config.prompt_width, grid, grid, grid))
        self._check("points", points, (batch, *points.shape[1:2], 3))
        self._check("labels", labels, (batch, points.shape[1]))
        self._check("mask_logits", mask_logits, (batch, 1, *3 * (self.logits_size,)))
        sparse, dense = self.prompt_encoder(points, labels, mask_logits)
        logits: Tensor
        logits, _ = self.mask_decoder(embedding, self.prompt_encoder.dense_pe(), sparse, dense)
        return logits[:, :1]

    @staticmethod
    def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)} instead of {shape}")
