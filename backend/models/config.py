"""The sizes that fix one SAM-Med3D network; free of torch, so that it is cheap to import."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar


def check_positive(sizes: "ModelConfig | CompactConfig") -> None:
    """Refuse a number that is not positive."""
    for field in fields(sizes):
        if field.type in (int, float) and getattr(sizes, field.name) <= 0:
            raise ValueError(f"{field.name} must be positive, not {getattr(sizes, field.name)}")


def check_divides(part: str, part_size: int, whole: str, whole_size: int) -> None:
    """Refuse a size that is not a multiple of another."""
    if whole_size % part_size:
        raise ValueError(f"{whole} {whole_size} must be a multiple of {part} ({part_size})")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a SAM-Med3D network (SAM-Med3D paper, section 3; the defaults are its `vit_b_ori`).

    Attributes:
        image_size: voxels an axis of the cubic input.
        patch_size: voxels an axis of one token.
        width: channels of an image token.
        depth: number of encoder blocks.
        heads: attention heads of an encoder block.
        mlp_ratio: hidden width of an encoder MLP, as a multiple of `width`.
        window: tokens an axis of an attention window, in the blocks that are not global.
        global_blocks: indices of the encoder blocks whose attention sees the whole grid.
        prompt_width: channels of the image embedding, the prompts and the mask decoder.
        decoder_depth: number of two-way blocks of the mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp: hidden width of a two-way block's MLP.
        box_prompts: whether there are embeddings of the two corners of a box.

    Raises:
        ValueError: if the sizes do not fit each other.
    """

    image_size: int = 128
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    prompt_width: int = 384
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    box_prompts: bool = False

    def __post_init__(self) -> None:
        check_positive(self)
        check_divides("patch_size", self.patch_size, "image_size", self.image_size)
        check_divides("heads", self.heads, "width", self.width)
        # Sin, cos and sin of each frequency fill the prompt width; the decoder's upscaling divides it by 8;
        # its cross attentions halve it before they part it among the heads.
        check_divides("3", 3, "prompt_width", self.prompt_width)
        check_divides("8", 8, "prompt_width", self.prompt_width)
        check_divides("2 * decoder_heads", 2 * self.decoder_heads, "prompt_width", self.prompt_width)
        if not set(self.global_blocks) <= set(range(self.depth)):
            raise ValueError(f"global_blocks {self.global_blocks} must lie within 0..{self.depth - 1}")

    @property
    def grid(self) -> int:
        """Tokens an axis."""
        return self.image_size // self.patch_size

    @property
    def logits_size(self) -> int:
        """Voxels an axis of the mask logits, both those that are predicted and those given as a prompt."""
        return 4 * self.grid


VIT_B_ORI = ModelConfig()
"""The published network: 100.5 M parameters."""

SMALL = ModelConfig(image_size=64, width=48, depth=4, heads=4, global_blocks=(1, 3), prompt_width=48)
"""The same network in small, for tests and for a first try on a laptop."""


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact network: convolutions down to an eighth of the crop, then a few transformer blocks.

    Attributes:
        token: voxels an axis of an image token.
        box_prompts: whether it knows boxes: a box is a click at its centre, and a size of the window.
        image_size: voxels an axis of the cubic input, and logits an axis of the mask.
        stem: channels at a half and at a quarter of the resolution.
        stem_depth: number of residual convolutions of the encoder at a half and at a quarter of the resolution.
        width: channels of an image token, of a prompt and of the mask decoder.
        depth: number of encoder blocks.
        heads: attention heads of an encoder block.
        mlp_ratio: hidden width of an encoder MLP, as a multiple of `width`.
        decoder_depth: number of two-way blocks of the mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp: hidden width of a two-way block's MLP.

    Raises:
        ValueError: if the sizes do not fit each other.
    """

    token: ClassVar[int] = 8
    box_prompts: ClassVar[bool] = False
    image_size: int = 64
    stem: tuple[int, int] = (32, 96)
    stem_depth: tuple[int, int] = (2, 6)
    width: int = 192
    depth: int = 8
    heads: int = 6
    mlp_ratio: float = 4.0
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 768

    def __post_init__(self) -> None:
        check_positive(self)
        check_divides("token", self.token, "image_size", self.image_size)
        check_divides("heads", self.heads, "width", self.width)
        check_divides("3", 3, "width", self.width)
        check_divides("2 * decoder_heads", 2 * self.decoder_heads, "width", self.width)
        for name in ("stem", "stem_depth"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"{name} must be two numbers, not {getattr(self, name)}")
        for channels in self.stem:
            if channels <= 0:
                raise ValueError(f"each of stem must be positive, not {channels}")
            check_divides("8", 8, "each of stem", channels)
        if min(self.stem_depth) <= 0:
            raise ValueError(f"each of stem_depth must be positive, not {self.stem_depth}")

    @property
    def prompt_width(self) -> int:
        """Channels of a prompt."""
        return self.width

    @property
    def grid(self) -> int:
        """Tokens an axis."""
        return self.image_size // self.token

    @property
    def logits_size(self) -> int:
        """Logits an axis of the mask."""
        return self.image_size


COMPACT = CompactConfig()
"""The network whose weights come with the project."""

NetworkConfig = ModelConfig | CompactConfig
_KINDS: dict[str, type[ModelConfig] | type[CompactConfig]] = {"sam_med3d": ModelConfig, "compact": CompactConfig}

NAMED: dict[str, NetworkConfig] = {"vit_b_ori": VIT_B_ORI, "small": SMALL, "compact": COMPACT}
"""Networks by the name that a configuration gives them."""


def describe(config: NetworkConfig) -> str:
    """The sizes as text, to lie beside weights."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(config, cls))
    return json.dumps({"kind": kind, **asdict(config)})


def _alike(size: Any, known: Any) -> bool:
    """Whether a size, or each of a list of sizes, is of the type of a known one."""
    if isinstance(known, tuple):
        return isinstance(size, tuple) and all(_alike(one, known[0]) for one in size)
    return type(size) is type(known) or (type(known) is float and type(size) is int)


def resized(known: NetworkConfig, given: Mapping[str, Any]) -> NetworkConfig:
    """Sizes with some replaced; lists are taken for tuples.

    Raises:
        TypeError: a name that is none of them, or a value of another type.
        ValueError: they do not fit.
    """
    sizes: dict[str, Any] = {name: tuple(size) if isinstance(size, list) else size for name, size in given.items()}
    config = replace(known, **sizes)
    for name in sizes:
        size, usual = getattr(config, name), getattr(known, name)
        if not _alike(size, usual):
            raise TypeError(f"{name} is {size!r}, and not such as {usual!r}")
    return config


def from_description(text: str) -> NetworkConfig:
    """The inverse of `describe`.

    Raises:
        ValueError: it is not what `describe` writes.
    """
    try:
        given = json.loads(text)
        return resized(_KINDS[given.pop("kind")](), given)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{text[:100]!r} describes no network") from error
