"""The configuration of a run: TOML into frozen models that refuse unknown keys and impossible values by name."""

import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from backend.errors import ErrorCode, SamMed3DError
from backend.models.zoo import expanded

Part = Literal["image_encoder", "prompt_encoder", "mask_decoder"]
# With ~ as the home folder: of `run.out=~/runs` a shell leaves it as it is.
UserPath = Annotated[Path, AfterValidator(expanded)]


class Section(BaseModel):
    """A table of the file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SectionType = TypeVar("SectionType", bound=Section)


class ModelSection(Section):
    """The network and where its weights come from.

    Attributes:
        name: a configuration of the zoo.
        sizes: fields of that configuration to replace, such as `depth`.
        start: "scratch"; "weights", a checkpoint of this network; "inflated", a 2D SAM checkpoint made 3D;
            "adapters", the same with its image encoder frozen and 3D adapters trained (supplement, C.3).
        weights: the file that `start` needs, or the name of published weights.
        freeze: parts that are not trained.
    """

    name: Literal["vit_b_ori", "small", "compact"] = "vit_b_ori"
    sizes: dict[str, int | float | bool | list[int]] = {}
    start: Literal["scratch", "weights", "inflated", "adapters"] = "scratch"
    weights: UserPath | None = None
    freeze: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _weights_given(self) -> Self:
        if (self.start == "scratch") != (self.weights is None):
            needs = "takes no" if self.start == "scratch" else "needs"
            raise ValueError(f'start = "{self.start}" {needs} model.weights, a file or the name of published ones')
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
        start_epochs: of a synthetic source, how many epochs have smaller crops, of which there are more in the same
            time; only networks that take any size of crop can do with them.
        start_size: voxels an axis of those crops.
        samples_per_epoch: of a synthetic source, or a random part of an index; "none" for the whole index.
        validation_samples: how many held-out masks a validation looks at.
        workers: processes that load samples, for each rank; 0 lets the rank load them itself, and make synthetic
            volumes on its CUDA device, if it has one.
    """

    source: Literal["index", "synthetic"] = "index"
    path: UserPath | None = None
    stage: Literal["pretrain", "finetune", "all"] = "all"
    labels: tuple[UserPath, ...] = ()
    crop: Literal["jitter", "resize"] = "jitter"
    jitter: int = Field(default=16, ge=0)
    flips: bool = True
    variants: int = Field(default=0, ge=0)
    start_epochs: int = Field(default=0, ge=0)
    start_size: int = Field(default=32, gt=0, multiple_of=8)
    samples_per_epoch: int | None = Field(default=None, gt=0)
    validation_samples: int = Field(default=64, ge=0)
    workers: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _source_complete(self) -> Self:
        if (self.source == "index") != (self.path is not None):
            needs = "needs" if self.source == "index" else "takes no"
            raise ValueError(f'source = "{self.source}" {needs} data.path, a folder that backend.prepare wrote')
        if self.source == "synthetic" and self.samples_per_epoch is None:
            raise ValueError('source = "synthetic" is endless: it needs samples_per_epoch')
        if idle := self._of_the_other_source():
            raise ValueError(f'{idle[0]} is not for source = "{self.source}"')
        if self.variants and (self.start_epochs or (self.source == "index" and self.samples_per_epoch)):
            raise ValueError("variants repeat the first epochs, so start_epochs or a part of an index would never end")
        return self

    def _of_the_other_source(self) -> list[str]:
        """Keys that would have no effect."""
        names = ("labels", "start_epochs") if self.source == "index" else ("stage", "crop", "jitter", "flips")
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]


class ClickSection(Section):
    """The episode of simulated clicks (paper, section 3.3; published training code).

    Attributes:
        interactions: decoder passes a sample.
        first_clicks: the first of these may be as late as the episode's click of this number; half the time it is the
            first, else any up to this. The interactions before it have no gradient, and so take little time.
        mask_only: how many interactions see no new click: the last, and others at random.
        centre_share: probability that a click is the centre of the largest error component, not a random error voxel.
    """

    interactions: int = Field(default=11, gt=0)
    first_clicks: int = Field(default=1, gt=0)
    mask_only: int = Field(default=2, ge=0)
    centre_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _some_clicks(self) -> Self:
        if self.mask_only >= self.interactions:
            raise ValueError(f"mask_only {self.mask_only} leaves no click of {self.interactions} interactions")
        return self


class OptimizerSection(Section):
    """AdamW and its learning rate.

    Attributes:
        lr: of the image encoder.
        prompt_decoder_scale: the prompt encoder's and the mask decoder's learning rate as a share of `lr`.
        weight_decay: of everything but norms, biases and embeddings.
        betas: decay of AdamW's running means.
        clip_norm: largest norm of the gradient; "none" for no limit.
        cycle: epochs of one cycle of the learning rate; at its end it starts anew.
        milestones: epochs of a cycle at which it is multiplied by `factor`.
        factor: see `milestones`.
        warmup_steps: optimizer steps over which it first rises from 0.
        ema_decay: of the exponential mean of the weights, which is validated and exported; "none" for none.
    """

    lr: float = Field(default=8e-4, gt=0)
    prompt_decoder_scale: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(default=1.0, gt=0)
    cycle: int = Field(default=200, gt=0)
    milestones: tuple[int, ...] = (120, 160, 190)
    factor: float = Field(default=0.1, gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        inside = all(0 < milestone < self.cycle for milestone in self.milestones)
        if list(self.milestones) != sorted(set(self.milestones)) or not inside:
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

    samples_per_step: int = Field(default=240, gt=0)
    micro_batch: int = Field(default=6, gt=0)


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
        ranks: processes on this machine, at most one a GPU; 0 for one a GPU, or one on a CPU. Under torchrun it is not
            looked at.
        threads: CPU threads of each rank; 0 for torch's own choice.
    """

    out: UserPath = Path("runs/run")
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=800, gt=0)
    validate_every: int = Field(default=1, ge=0)
    save_every: int = Field(default=0, ge=0)
    keep: int = Field(default=3, gt=0)
    skip_limit: int = Field(default=20, gt=0)
    timeout_s: float = Field(default=600, gt=0)
    ranks: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)


class TrainConfig(Section):
    """Everything that a run depends on."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection
    clicks: ClickSection = ClickSection()
    optimizer: OptimizerSection = OptimizerSection()
    batch: BatchSection = BatchSection()
    numerics: NumericsSection = NumericsSection()

    @model_validator(mode="after")
    def _sizes_known(self) -> Self:
        if self.data.start_epochs and self.model.name != "compact":
            raise ValueError(f'data.start_epochs: "{self.model.name}" takes crops of one size')
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a training run; see `read_toml_config`."""
    return read_toml_config(TrainConfig, path, overrides)


def read_toml_config(kind: type[SectionType], path: Path, overrides: Sequence[str] = ()) -> SectionType:
    """Read a file and `section.key=value` words into a configuration.

    Args:
        kind: the configuration's model.
        path: TOML, or JSON as a run saves it; a bare name that is no file here is one of the shipped files.
        overrides: the key's path and a value as in TOML; what is no TOML value is text. "none" is None, here and in
            the file, since TOML has no word for it.

    Raises:
        SamMed3DError: CONFIG_INVALID, naming each key and its value; FILE_MISSING; FILE_READ.
    """
    values = _parse(path, _read_text(path))
    for word in overrides:
        _override(values, word)
    try:
        # Strict, so that neither true nor "5" is a number; by way of JSON, where a list may still be a tuple.
        return kind.model_validate_json(json.dumps(_with_none(values), default=str), strict=True)
    except ValidationError as error:
        faults = "; ".join(_told(fault) for fault in error.errors())
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"The configuration {path} cannot be used: {faults}.",
            "Correct it there, or by `key=value` on the command line; "
            f"{kind.__name__} in {kind.__module__} tells what each key means.",
        ) from error


def _read_text(path: Path) -> str:
    try:
        if path.exists() or path.parent != Path():
            return path.read_text(encoding="utf-8")
        return resources.files("backend.configs").joinpath(path.name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        files = resources.files("backend.configs").iterdir()
        shipped = sorted(file.name for file in files if file.name.endswith(".toml"))
        raise SamMed3DError(
            ErrorCode.FILE_MISSING,
            f"There is no file {path}, and none of that name is shipped.",
            f"Check its path, or take one of the shipped files: {', '.join(shipped)}.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SamMed3DError(
            ErrorCode.FILE_READ, f"{path} could not be read: {error}.", "Check that it is a text file you may read."
        ) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID, f"{path} is not in its format: {error}.", "Correct the line that is named."
        ) from error
    if not isinstance(values, dict):
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID, f"{path} holds a {type(values).__name__}, not tables.", "Choose another file."
        )
    return values


def _override(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    *tables, name = key.strip().split(".")
    table: Any = values
    for part in tables:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if not equals or not name or not isinstance(table, dict):
        raise SamMed3DError(ErrorCode.CONFIG_INVALID, f"{word!r} does not set a key.", "Write it as section.key=value.")
    table[name] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _with_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_none(inner) for key, inner in value.items()}
    return None if value == "none" else value


def _told(fault: ErrorDetails) -> str:
    """One fault, as `key = value: what is wrong`; a whole table is not repeated."""
    key = ".".join(map(str, fault["loc"]))
    value = "" if isinstance(fault["input"], dict) else f" = {fault['input']!r}"
    message = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    return f"{key}{value}: {message}"
