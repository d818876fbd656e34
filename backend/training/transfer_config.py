"""The configuration of a transfer: semantic segmentation with and without a trained image encoder."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from backend.training.config import ModelSection, OptimizerSection, Section, UserPath


class TransferRunSection(Section):
    """The run itself; both arms have the same.

    Attributes:
        out: folder of the result.
        seed: of weights, order and crops.
        epochs: how many.
        batch: crops of an optimizer step.
        device: "auto" takes a GPU if there is one.
        precision: "auto" is bfloat16 on a GPU that has it, else float32.
        threads: CPU threads; 0 for torch's own choice.
    """

    out: UserPath = Path("runs/transfer")
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=100, gt=0)
    batch: int = Field(default=2, gt=0)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = Field(default=0, ge=0)


class TransferModelSection(ModelSection):
    """The network whose image encoder is taken; `start` and `weights` are those of the pre-trained arm.

    Attributes:
        features: channels of UNETR's decoder at full resolution.
    """

    features: int = Field(default=16, gt=0)

    @model_validator(mode="after")
    def _has_something_to_transfer(self) -> Self:
        if self.start == "scratch":
            raise ValueError('start = "scratch" leaves nothing to compare with: name the pre-trained weights')
        if self.start == "adapters":
            raise ValueError('start = "adapters" freezes an encoder with adapters: from scratch there is none like it')
        if self.name == "compact":
            raise ValueError('name = "compact" is no vision transformer, as UNETR needs')
        if set(self.freeze) - {"image_encoder"}:
            raise ValueError(f"freeze = {list(self.freeze)}: of the network a transfer has the image encoder only")
        return self


class TransferDataSection(Section):
    """The volumes.

    Attributes:
        source: "index", what `backend.prepare` made; "phantom", synthetic torsos.
        path: the folder of the index.
        targets: what to tell apart, by their names in the index; where two overlap, the later one counts. A volume
            that shows none of them is left out, and what is not marked in one is background there.
        crops_per_epoch: training crops.
        train_cases: at most so many volumes to learn from, the first by name; "none" for all. For phantoms, how many.
        validation_cases: the same for validation.
    """

    source: Literal["index", "phantom"] = "index"
    path: UserPath | None = None
    targets: tuple[str, ...] = Field(min_length=1)
    crops_per_epoch: int = Field(default=64, gt=0)
    train_cases: int | None = Field(default=None, gt=0)
    validation_cases: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "index") != (self.path is not None):
            needs = "needs" if self.source == "index" else "takes no"
            raise ValueError(f'source = "{self.source}" {needs} data.path, a folder that backend.prepare wrote')
        if self.source == "phantom" and None in (self.train_cases, self.validation_cases):
            raise ValueError('source = "phantom" is endless: it needs train_cases and validation_cases')
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets {list(self.targets)} names one twice")
        return self


class TransferConfig(Section):
    """Everything that a transfer depends on."""

    run: TransferRunSection = TransferRunSection()
    model: TransferModelSection
    data: TransferDataSection
    optimizer: OptimizerSection = OptimizerSection()

    @model_validator(mode="after")
    def _has_one_network(self) -> Self:
        usual = OptimizerSection()
        for name in ("ema_decay", "prompt_decoder_scale"):
            if getattr(self.optimizer, name) != getattr(usual, name):
                raise ValueError(f"optimizer.{name} is not for a transfer, which has no mean weights and no prompts")
        return self
