"""Files of weights: what loads, what is refused, and that a refusal leaves no trace."""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from torch import Tensor

from backend.errors import ErrorCode, SamMed3DError
from backend.models import checkpoint
from backend.models.checkpoint import (
    load_into,
    load_model,
    read_state_dict,
    read_weights,
    save_published,
    save_safetensors,
)
from backend.models.config import SMALL, CompactConfig, NetworkConfig
from backend.models.network import build_network
from backend.models.sam_med3d import SamMed3D

State = dict[str, Tensor]
FORMAT, MISMATCH, VALUES = ErrorCode.CHECKPOINT_FORMAT, ErrorCode.CHECKPOINT_MISMATCH, ErrorCode.CHECKPOINT_VALUES
CANARY = "canary"  # in the working directory, which is the test's own
PIXEL = "image_encoder.patch_embed.proj.weight"


class Runs:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def by_shell() -> Runs:
    return Runs(os.system, f"touch {CANARY}")


def by_exec() -> Runs:
    return Runs(exec, f"open({CANARY!r}, 'w').close()")


def torch_bytes(content: object, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def compressed(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stream.getvalue()


def zip_of(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def lying_header(length: int, end: int) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [end // 4], "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", length or len(header)) + header + bytes(64)


PAYLOADS: dict[str, tuple[ErrorCode, bytes | Callable[[State], bytes]]] = {
    "shell": (FORMAT, torch_bytes(by_shell())),
    "shell beside weights": (FORMAT, lambda s: torch_bytes({"model_state_dict": s, "optimizer": by_shell()})),
    "shell as a weight, legacy": (FORMAT, lambda s: torch_bytes(s | {PIXEL: by_shell()}, legacy=True)),
    "shell in a namespace": (
        FORMAT,
        lambda s: torch_bytes({"state_dict": s, "args": argparse.Namespace(a=by_shell())}),
    ),
    "exec": (FORMAT, torch_bytes(by_exec())),
    "exec, legacy": (FORMAT, torch_bytes(by_exec(), legacy=True)),
    "touch, bare pickle": (FORMAT, pickle.dumps(Runs(Path.touch, Path(CANARY)), 2)),
    "shell, bare pickle 4": (FORMAT, pickle.dumps(by_shell(), 4)),
    "shell, text pickle": (FORMAT, pickle.dumps(by_shell(), 0)),
    "truncated": (FORMAT, lambda s: torch_bytes(s)[:-1000]),
    "truncated, legacy": (FORMAT, lambda s: torch_bytes(s, legacy=True)[:-1000]),
    "one flipped bit": (FORMAT, lambda s: flipped(torch_bytes(s), len(torch_bytes(s)) // 2)),
    "compressed": (FORMAT, lambda s: compressed(torch_bytes(s))),
    "another zip": (FORMAT, zip_of("a.txt", b"text")),
    "a list": (FORMAT, lambda s: torch_bytes(list(s.values()))),
    "numbers": (FORMAT, torch_bytes({"epoch": 3})),
    "complex": (FORMAT, lambda s: torch_bytes(s | {PIXEL: s[PIXEL] * 1j})),
    "empty": (FORMAT, b""),
    "web page": (FORMAT, b"\n<!DOCTYPE html><html><body>blob/main</body></html>"),
    "git-LFS pointer": (FORMAT, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    "text": (FORMAT, b"Access denied, please log in."),
    "safetensors truncated": (FORMAT, lambda s: safetensors_bytes(s)[:-1000]),
    "safetensors, header of 2**47": (FORMAT, lying_header(2**47, 64)),
    "safetensors, tensor of a TB": (FORMAT, lying_header(0, 2**40)),
    "missing": (MISMATCH, lambda s: torch_bytes({k: v for k, v in s.items() if k != PIXEL})),
    "unexpected": (MISMATCH, lambda s: torch_bytes(s | {"more": torch.ones(1)})),
    "other shape": (MISMATCH, lambda s: torch_bytes(s | {PIXEL: torch.ones(1).expand(2**40)})),
    "NaN": (VALUES, lambda s: torch_bytes(s | {PIXEL: s[PIXEL] * torch.nan})),
    "infinite as float32": (VALUES, lambda s: torch_bytes(s | {PIXEL: s[PIXEL].double() + 1e300})),
    "infinite, half": (VALUES, lambda s: safetensors_bytes(s | {PIXEL: s[PIXEL].half() * torch.inf})),
}


def small(seed: int) -> SamMed3D:
    torch.manual_seed(seed)
    return SamMed3D(SMALL).eval()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def old() -> SamMed3D:
    return small(0)


@pytest.fixture(scope="module")
def new_state() -> State:
    return small(1).state_dict()


@torch.no_grad()
def answer(model: SamMed3D) -> Tensor:
    image = torch.linspace(-1, 1, SMALL.image_size**3).reshape(1, 1, *3 * (SMALL.image_size,))
    points, labels = torch.tensor([[[30.0, 31, 32]]]), torch.ones(1, 1, dtype=torch.long)
    return model(image, points, labels, model.empty_mask(1))


@pytest.fixture(scope="module")
def old_answer(old: SamMed3D) -> Tensor:
    return answer(old)


def written(name: str, state: State) -> Path:
    path, payload = Path("weights.pth").absolute(), PAYLOADS[name][1]
    path.write_bytes(payload if isinstance(payload, bytes) else payload(state))
    return path


def refusal(path: Path, model: SamMed3D) -> SamMed3DError:
    with pytest.raises(SamMed3DError) as caught:
        load_into(model, read_state_dict(path), path)
    return caught.value


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bad_file_is_refused_and_leaves_no_trace(
    name: str, old: SamMed3D, old_answer: Tensor, new_state: State
) -> None:
    path = written(name, new_state)
    error = refusal(path, old)
    assert error.code is PAYLOADS[name][0]
    assert str(path) in error.problem
    assert not Path(CANARY).exists()
    assert torch.equal(answer(old), old_answer)


def test_the_environment_cannot_switch_the_check_off(
    old: SamMed3D, new_state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert refusal(written("exec", new_state), old).code is FORMAT
    assert not Path(CANARY).exists()


def test_the_canary_works() -> None:
    for runs in (by_shell(), by_exec(), Runs(Path.touch, Path(CANARY))):
        pickle.loads(pickle.dumps(runs))
        Path(CANARY).unlink()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shell", "posix.system|nt.system"),
        ("exec, legacy", "asks for exec"),
        ("truncated", "cut short"),
        ("one flipped bit", "checksum"),
        ("compressed", "compressed"),
        ("empty", "0 bytes"),
        ("web page", "resolve/main"),
        ("git-LFS pointer", "git lfs pull"),
        ("text", "Access denied"),
        ("missing", rf"1 missing \({PIXEL}\)"),
        ("unexpected", r"1 unexpected \(more\)"),
        ("other shape", r"1 of another shape .*\(1099511627776,\) for \(48, 1, 16, 16, 16\)"),
        ("NaN", rf"1 tensors \({PIXEL}: 196608\)"),
    ],
)
def test_refusal_says_what_is_wrong(name: str, says: str, old: SamMed3D, new_state: State) -> None:
    with pytest.raises(SamMed3DError, match=says):
        raise refusal(written(name, new_state), old)


@pytest.mark.parametrize(("path", "code"), [("absent.pth", ErrorCode.FILE_MISSING), (".", ErrorCode.FILE_READ)])
def test_no_file(path: str, code: ErrorCode, old: SamMed3D) -> None:
    assert refusal(Path(path), old).code is code


def test_many_faults_are_summarised(old: SamMed3D, new_state: State) -> None:
    with pytest.raises(SamMed3DError, match=rf"{len(new_state)} missing \(.*, \.\.\.\); 1 unexpected"):
        load_into(old, {"a": torch.ones(1)}, "x.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_raises_nothing_else_and_never_gets_past_a_checksum(kind: str, tmp_path: Path) -> None:
    state = {"a": torch.arange(40.0), "b": torch.ones(3, 4)}
    good = safetensors_bytes(state) if kind == "safetensors" else torch_bytes(state, legacy=kind == "legacy")
    random, path = Random(0), tmp_path / "weights.pth"
    for trial in range(300):
        at = random.randrange(len(good))
        path.write_bytes(good[:at] if trial % 2 else flipped(good, at))
        try:
            read = read_state_dict(path)
        except SamMed3DError:
            continue
        assert trial % 2 == 0
        if kind == "zip":  # the other two have no checksum
            assert read.keys() == state.keys()
            assert all(torch.equal(read[name], state[name]) for name in state)


def published(state: State) -> bytes:
    model = torch.nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    args = argparse.Namespace(lr=8e-4, device=torch.device("cpu"), gpu_ids=[0, 1], task_name="union")
    beside = {"epoch": 3, "losses": [0.5, 0.25], "best_dice": 0.9, "args": args, "used_datas": ["a/b"]}
    return torch_bytes({"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()} | beside)


@pytest.mark.parametrize(
    "layout",
    [
        published,
        torch_bytes,
        lambda state: torch_bytes(state, legacy=True),
        lambda state: torch_bytes({"state_dict": state}),
        lambda state: torch_bytes({f"module.{name}": tensor for name, tensor in state.items()}),
        safetensors_bytes,
    ],
    ids=["published", "plain", "legacy", "state_dict", "module.", "safetensors"],
)
def test_every_layout_loads_bit_identically(layout: Callable[[State], bytes], new_state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights"  # the bytes tell, not the name
    path.write_bytes(layout(new_state))
    model = load_model(path, SMALL)
    assert not model.training
    assert model.state_dict().keys() == new_state.keys()
    assert all(torch.equal(tensor, new_state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_weights_take_the_type_of_the_model(dtype: torch.dtype, new_state: State, tmp_path: Path) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in new_state.items()}, tmp_path / "weights.safetensors")
    model = load_model(tmp_path / "weights.safetensors", SMALL)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, new_state[name].to(dtype).float())


@pytest.mark.parametrize("save", [save_published, save_safetensors])
def test_round_trip(save: Callable[[SamMed3D, Path], None], old: SamMed3D, old_answer: Tensor, tmp_path: Path) -> None:
    save(old, tmp_path / "weights")
    assert torch.equal(answer(load_model(tmp_path / "weights", SMALL)), old_answer)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    save(old, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "weights").read_bytes()


def test_published_layout_is_what_the_published_code_reads(old: SamMed3D, tmp_path: Path) -> None:
    save_published(old, tmp_path / "weights.pth")
    assert torch.load(tmp_path / "weights.pth")["model_state_dict"].keys() == old.state_dict().keys()


@pytest.fixture
def nearly_full_disk() -> Iterator[None]:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("nearly_full_disk")
@pytest.mark.parametrize("save", [save_published, save_safetensors])
def test_full_disk_keeps_the_old_file(save: Callable[[SamMed3D, Path], None], old: SamMed3D, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with pytest.raises(SamMed3DError) as caught:
        save(old, path)
    assert caught.value.code is ErrorCode.FILE_WRITE
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("boxes", [False, True])
def test_box_prompts_are_inferred(boxes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VIT_B_ORI", SMALL)
    save_published(SamMed3D(checkpoint.replace(SMALL, box_prompts=boxes)), tmp_path / "weights.pth")
    assert load_model(tmp_path / "weights.pth").config.box_prompts is boxes


SIZES = CompactConfig(
    image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=2, decoder_heads=2, decoder_mlp=32
)


@pytest.mark.parametrize("config", [SIZES, replace(SMALL, depth=2, global_blocks=(1,), box_prompts=True)])
@pytest.mark.parametrize(("save", "name"), [(save_safetensors, "w.safetensors"), (save_published, "w.pth")])
def test_our_files_say_the_sizes_of_their_network(
    tmp_path: Path, config: NetworkConfig, save: Callable[..., None], name: str
) -> None:
    model = build_network(config)
    save(model, tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert loaded.config == config
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_what_others_call_a_network_is_no_description(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"a": torch.zeros(1)}, "network": "unet"}, tmp_path / "w.pth")
    weights = read_weights(tmp_path / "w.pth")
    assert list(weights.state) == ["a"]
    assert weights.sizes is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"kind": "other"}',
        '{"kind": "compact", "image_size": 3}',
        '{"kind": "compact", "depth": 2.5}',
        '{"kind": "compact", "stem": [32]}',
        '{"kind": "compact", "stem": [32, "96"]}',
        '{"kind": "compact", "depth": true}',
    ],
)
def test_sizes_that_describe_no_network_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes({"a": torch.zeros(1)}, {"network": text}))
    with pytest.raises(SamMed3DError) as caught:
        read_weights(path)
    assert caught.value.code == FORMAT
