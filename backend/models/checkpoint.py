"""Files of weights: read without running anything in them, checked in full before a model is touched."""

import argparse
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from backend.errors import ErrorCode, SamMed3DError
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.models.adapters import has_adapters
from backend.models.config import VIT_B_ORI, NetworkConfig, describe, from_description
from backend.models.network import Network, build_network

_Format = Literal["zip", "pickle", "safetensors"]

# Where our files say the sizes of their network.
_DESCRIPTION = "network"
_BOX_WEIGHT = "prompt_encoder.point_embeddings.2.weight"
_DOWNLOAD_AGAIN = "Download it again, with the direct link (.../resolve/main/..., not .../blob/main/...)."


@dataclass(frozen=True)
class Weights:
    """What is in a file of weights.

    Attributes:
        state: names to tensors on the CPU. They may be views of the file, which must not be overwritten meanwhile.
        sizes: of the network, where the file says them, as ours do.
    """

    state: dict[str, Tensor]
    sizes: NetworkConfig | None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights of a file alone; see `read_weights`."""
    return read_weights(path).state


def read_weights(path: str | Path) -> Weights:
    """Read the weights of a PyTorch (.pth, .pt) or safetensors file, told apart by their first bytes.

    The published layout (`model_state_dict` beside the optimizer's state, numbers and an `argparse.Namespace`),
    `state_dict` and a plain state dict are known; the `module.` that DistributedDataParallel adds is taken off.
    No code in the file is ever run.

    Raises:
        SamMed3DError: FILE_MISSING, FILE_READ, or CHECKPOINT_FORMAT (no weights, damaged, or asking to run code).
    """
    path = Path(path)
    kind = _format(path)
    try:
        content = load_file(path) if kind == "safetensors" else _unpickle(path, kind)
        described = _safetensors_description(path) if kind == "safetensors" else _pickled_description(content)
        sizes = None if described is None else from_description(described)
    except SamMed3DError:
        raise
    except Exception as error:  # the readers raise nearly every type there is for bytes made up by a stranger
        raise _unreadable(path, error) from error
    return Weights(_weights(content, path), sizes)


def load_into(model: nn.Module, state: Mapping[str, Tensor], origin: str | Path) -> None:
    """Copy weights into a model, converted to its types; on any refusal the model stays as it was.

    Args:
        model: every entry of its state dict must be in `state`, with the same shape, and nothing else.
        state: names to finite tensors of any real type.
        origin: what to call the weights in a message.

    Raises:
        SamMed3DError: CHECKPOINT_MISMATCH (names or shapes), CHECKPOINT_VALUES (NaN or infinite).
    """
    own = model.state_dict()
    _check_fit(own, state, origin)
    converted = {name: state[name].to(tensor.dtype) for name, tensor in own.items()}
    _check_finite(converted, origin)
    model.load_state_dict(converted)


def load_model(path: str | Path, config: NetworkConfig | None = None) -> Network:
    """Make the network of a file of weights, in eval mode on the CPU.

    Args:
        path: as for `read_weights`.
        config: the network; by default what the file says, or else the published one, with box prompts where the
            file has them. Where the file has adapters, so has the network.

    Raises:
        SamMed3DError: as `read_weights` and `load_into`.
    """
    weights = read_weights(path)
    published = replace(VIT_B_ORI, box_prompts=_BOX_WEIGHT in weights.state)
    model = build_network(config or weights.sizes or published, adapted=has_adapters(weights.state))
    load_into(model, weights.state, path)
    return model.eval()


def save_safetensors(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights, and the sizes of a network of ours, as safetensors, whole or not at all.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    path = Path(path)
    content = to_safetensors(_on_cpu(model), _description(model))
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)  # save_file's would be readable by its owner alone


def save_published(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights as the published code reads them: a .pth file with `model_state_dict`.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    path = Path(path)
    content = {"model_state_dict": _on_cpu(model), **_description(model)}
    with writing(path), replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)  # given a path, it would write its name into the file


def _description(model: nn.Module) -> dict[str, str]:
    config = getattr(model, "config", None)
    return {_DESCRIPTION: describe(config)} if isinstance(config, NetworkConfig) else {}


def _safetensors_description(path: Path) -> str | None:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(_DESCRIPTION)


def _pickled_description(content: Any) -> str | None:
    told = content.get(_DESCRIPTION) if isinstance(content, dict) and "model_state_dict" in content else None
    return told if isinstance(told, str) and told.startswith("{") else None  # others may call other things so


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}


def _format(path: Path) -> _Format:
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[5:9] == b"\0\0\0{":  # the header and its length before it, which may begin like a pickle
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    raise _not_weights(path, head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(256)
    except FileNotFoundError as error:
        raise SamMed3DError(
            ErrorCode.FILE_MISSING, f"There is no file {path}.", "Check the path of the weights."
        ) from error
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_READ, f"{path} could not be read: {error.strerror}.", "Check that it is a file you may read."
        ) from error


def _not_weights(path: Path, head: bytes) -> SamMed3DError:
    if not head:
        return _refusal(path, "is empty (0 bytes)", _DOWNLOAD_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return _refusal(
            path, "is a git-LFS pointer, not the weights", "Run `git lfs pull` in its folder, or download the file."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _refusal(path, "is a web page (HTML), not weights", _DOWNLOAD_AGAIN)
    return _refusal(
        path, f"is not a file of weights; it begins with {head[:16]!r}", "Choose a .pth, .pt or .safetensors file."
    )


def _refusal(path: Path, problem: str, remedy: str) -> SamMed3DError:
    return SamMed3DError(ErrorCode.CHECKPOINT_FORMAT, f"{path} {problem}.", remedy)


def _unreadable(path: Path, error: Exception) -> SamMed3DError:
    code = re.search(r"GLOBAL (\S+)", str(error))  # how torch names what a pickle asked for
    if code:
        return _refusal(
            path,
            f"asks for {code[1]} on loading, which weights need not; nothing was run",
            "Use it only if you trust its source, and then as .safetensors, which can hold nothing but weights.",
        )
    return _refusal(path, f"is damaged, cut short or of another format ({type(error).__name__})", _DOWNLOAD_AGAIN)


def _unpickle(path: Path, kind: _Format) -> Any:
    if kind == "zip":
        _check_archive(path)
    # A `pickle_module` would silently switch `weights_only` off; the published files need the one class.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")


def _check_archive(path: Path) -> None:
    """PyTorch itself reads past flipped bits and would unpack a compressed bomb, which it never writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise _refusal(path, "is a compressed or overlapping archive, as PyTorch writes none", _DOWNLOAD_AGAIN)
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise _refusal(path, f"is cut short ({path.stat().st_size} bytes)", _DOWNLOAD_AGAIN) from error
    if damaged:
        raise _refusal(path, f"is damaged: {damaged} does not have its checksum", _DOWNLOAD_AGAIN)


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and key in content:
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(map(_is_weight, content, content.values())):
        raise _refusal(
            path,
            "holds no weights: neither a state dict nor one under `model_state_dict` or `state_dict`",
            "Save it with torch.save(model.state_dict(), path).",
        )
    parallel = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if parallel else name: tensor for name, tensor in content.items()}


def _is_weight(name: object, tensor: object) -> bool:
    if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.is_complex():
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str | Path) -> None:
    shared = [name for name in own if name in state and own[name].shape != state[name].shape]
    faults = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in shared],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in faults.items() if names)
        raise SamMed3DError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"The weights of {origin} do not fit the model: {listed}.",
            "Choose the model that they were trained for; weights that know boxes need box_prompts.",
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_finite(state: Mapping[str, Tensor], origin: str | Path) -> None:
    finite = {name: tensor.isfinite() for name, tensor in state.items()}
    bad = [f"{name}: {int((~here).sum())}" for name, here in finite.items() if not here.all()]
    if bad:
        raise SamMed3DError(
            ErrorCode.CHECKPOINT_VALUES,
            f"{origin} holds values that are not finite numbers, in {len(bad)} tensors ({_first(bad)}).",
            "Use an earlier checkpoint: the training that wrote this one had diverged.",
        )
