"""The configuration of a run: TOML into frozen models that refuse unknown keys and impossible values by name."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.errors import ErrorCode, SamMed3DError

Part = Literal["image_encoder", "prompt_encoder", "mask_decoder"]


class Section(BaseModel):
    """A table of the file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(Section):
    """The network and where its weights come from.

    Attributes:
        name: a configuration of the zoo.
        sizes: fields of that configuration to replace, such as `depth`.
        start: "scratch"; "weights", a checkpoint of this network; "inflated", a 2D SAM checkpoint made 3D;
            "adapters", the same with its image encoder frozen and 3D adapters trained (supplement, C.3).
        weights: the file that `start` needs.
        freeze: parts that are not trained.
    """

    name: Literal["vit_b_ori", "small", "compact"] = "vit_b_ori"
    sizes: dict[str, int | float | bool | list[int]] = {}
    start: Literal["scratch", "weights", "inflated", "adapters"] = "scratch"
    weights: Path | None = None
    freeze: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _weights_given(self) -> Self:
        if (self.start == "scratch") != (self.weights is None):
            raise ValueError(f'start = "{self.start}" goes {"without" if self.start == "scratch" else "with"} weights')
        if len(set(self.freeze)) == 3:
            raise ValueError("freeze leaves nothing to train")
        return self


class DataSection(Section):
    """Where samples come from.

    Attributes:
        source: "index", what `backend.prepare` made; "synthetic", made on the fly.
        path: the folder of the index.
        stage: masks of which training stage (supplement, table 1); "all" for every one.
        labels: folders or files of label maps whose shapes the synthetic volumes take, beside procedural ones.
        crop: "jitter", a window around the object, moved by up to `jitter` voxels; "resize", the whole
            volume resized to the crop.
        jitter: voxels.
        flips: mirror each axis with probability 1/2 (supplement, C.2).
        variants: how many different crops of a mask there are; 0 for a new one in every epoch.
        samples_per_epoch: of a synthetic source, or a random part of an index; None for the whole index.
        validation_samples: how many held-out masks a validation looks at.
        workers: processes that load samples, for each rank.
    """

    source: Literal["index", "synthetic"] = "index"
    path: Path | None = None
    stage: Literal["pretrain", "finetune", "all"] = "all"
    labels: tuple[Path, ...] = ()
    crop: Literal["jitter", "resize"] = "jitter"
    jitter: int = Field(16, ge=0)
    flips: bool = True
    variants: int = Field(0, ge=0)
    samples_per_epoch: int | None = Field(None, gt=0)
    validation_samples: int = Field(64, ge=0)
    workers: int = Field(4, ge=0)

    @model_validator(mode="after")
    def _source_complete(self) -> Self:
        if (self.source == "index") != (self.path is not None):
            raise ValueError('source = "index" needs a path, and "synthetic" has none')
        if self.source == "synthetic" and self.samples_per_epoch is None:
            raise ValueError('source = "synthetic" is endless: it needs samples_per_epoch')
        if self.source == "index" and self.labels:
            raise ValueError('labels are for source = "synthetic"')
        return self


class ClickSection(Section):
    """The episode of simulated clicks (paper, section 3.3; published training code).

    Attributes:
        interactions: decoder passes a sample.
        mask_only: how many of them, besides the last, see the previous logits alone, without a click.
        centre_share: probability that a click is the centre of the largest error component, not a random error voxel.
    """

    interactions: int = Field(11, gt=0)
    mask_only: int = Field(1, ge=0)
    centre_share: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _some_clicks(self) -> Self:
        if self.mask_only and self.mask_only + 2 > self.interactions:
            raise ValueError(f"mask_only {self.mask_only} leaves no click of {self.interactions} interactions")
        return self


class OptimizerSection(Section):
    """AdamW and its learning rate.

    Attributes:
        lr: of the image encoder.
        prompt_decoder_scale: the prompt encoder's and the mask decoder's learning rate as a share of `lr`.
        weight_decay: of everything but norms, biases and embeddings.
        betas: decay of AdamW's running means.
        clip_norm: largest norm of the gradient; None for no limit.
        cycle: epochs of one cycle of the learning rate; at its end it starts anew.
        milestones: epochs of a cycle at which it is multiplied by `factor`.
        factor: see `milestones`.
        warmup_steps: optimizer steps over which it first rises from 0.
        ema_decay: of the exponential mean of the weights, which is validated and exported; None for none.
    """

    lr: float = Field(8e-4, gt=0)
    prompt_decoder_scale: float = Field(0.1, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(1.0, gt=0)
    cycle: int = Field(200, gt=0)
    milestones: tuple[int, ...] = (120, 160, 190)
    factor: float = Field(0.1, gt=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    ema_decay: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)) or any(not 0 < m < self.cycle for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} must rise within the cycle of {self.cycle} epochs")
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be from 0 to below 1")
        return self


class BatchSection(Section):
    """How many samples an optimizer step sees, whatever the number of ranks.

    Attributes:
        samples_per_step: of all ranks and accumulated passes together. As published 12 * 20 = 240.
        micro_batch: most samples of one pass on one rank; 6 on 2 GPUs is the published batch of 12 in all.
    """

    samples_per_step: int = Field(240, gt=0)
    micro_batch: int = Field(6, gt=0)


class NumericsSection(Section):
    """Precision, speed and memory.

    Attributes:
        device: "auto" takes every GPU there is, else the CPU.
        precision: "auto" is bfloat16 where a GPU has it, float16 on other GPUs, float32 on CPUs.
        compile: compile the network with torch.compile.
        checkpointing: recompute the encoder's activations in the backward pass, for less memory.
        deterministic: refuse operations that are not reproducible to the bit.
    """

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    deterministic: bool = False


class RunSection(Section):
    """The run itself.

    Attributes:
        out: its folder: configuration, log, checkpoints, plots, weights.
        seed: of weights, order, crops and clicks.
        epochs: how many.
        validate_every: epochs between validations; 0 for never.
        save_every: optimizer steps between checkpoints, beside those at the end of each epoch; 0 for none.
        keep: checkpoints kept, beside the best.
        skip_limit: steps in a row that may be skipped for a loss or gradient that is not finite.
        timeout_s: how long a rank waits for the others before all stop.
        ranks: processes on this machine; 0 for one a GPU, or one on a CPU. Under torchrun it is not looked at.
        threads: CPU threads of each rank; 0 for torch's own choice.
    """

    out: Path = Path("runs/run")
    seed: int = Field(0, ge=0)
    epochs: int = Field(800, gt=0)
    validate_every: int = Field(1, ge=0)
    save_every: int = Field(0, ge=0)
    keep: int = Field(3, gt=0)
    skip_limit: int = Field(20, gt=0)
    timeout_s: float = Field(600, gt=0)
    ranks: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)


class TrainConfig(Section):
    """Everything that a run depends on."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection
    clicks: ClickSection = ClickSection()
    optimizer: OptimizerSection = OptimizerSection()
    batch: BatchSection = BatchSection()
    numerics: NumericsSection = NumericsSection()


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file and `section.key=value` words (values as in TOML, or plain text) into a configuration.

    Raises:
        SamMed3DError: CONFIG_INVALID, naming the key and its value; FILE_MISSING.
    """
    raise NotImplementedError((path, overrides, tomllib, Any, ValidationError, ErrorCode, SamMed3DError))
