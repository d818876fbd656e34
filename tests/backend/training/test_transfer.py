"""Semantic segmentation with and without a trained image encoder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import backend.training.transfer
from backend.data.index import IndexEntry, write_index
from backend.data.store import write_array
from backend.errors import ErrorCode, SamMed3DError
from backend.models.adapters import AdaptedSamMed3D
from backend.models.checkpoint import save_safetensors
from backend.models.config import ModelConfig
from backend.training.config import ModelSection, OptimizerSection
from backend.training.starts import build_model, model_sizes
from backend.training.transfer import ARMS, build_network, segment, transfer
from backend.training.transfer_config import TransferConfig, TransferDataSection, TransferModelSection
from backend.training.transfer_config import TransferRunSection as RunSection
from backend.training.transfer_data import find_transfer_cases, training_batch
from backend.transfer import main

SIZES: dict[str, Any] = {
    "image_size": 32,
    "width": 24,
    "depth": 2,
    "heads": 2,
    "window": 2,
    "global_blocks": [1],
    "prompt_width": 48,
}
PHANTOMS = TransferDataSection(
    source="phantom", targets=("liver", "lung_left"), crops_per_epoch=6, train_cases=2, validation_cases=1
)


MODEL = {"name": "small", "start": "weights", "weights": Path("w.pth")}


def weights(folder: Path, seed: int) -> Path:
    save_safetensors(build_model(ModelSection(name="small", sizes=SIZES), seed), folder / f"{seed}.safetensors")
    return folder / f"{seed}.safetensors"


def config(folder: Path, seed: int, **run: Any) -> TransferConfig:
    """With weights that are those of that seed, though the run's seed is 0."""
    return TransferConfig(
        run=RunSection(out=folder / "out", epochs=2, batch=4, device="cpu", **run),
        model=TransferModelSection(
            name="small", sizes=SIZES, start="weights", weights=weights(folder, seed), features=4
        ),
        data=PHANTOMS,
        optimizer=OptimizerSection(lr=1e-3, cycle=2, milestones=()),
    )


def test_the_arms_differ_in_the_first_weights_of_the_encoder_alone(tmp_path: Path) -> None:
    pretrained, scratch = (build_network(config(tmp_path, seed=5), arm) for arm in ARMS)
    expected = build_model(ModelSection(name="small", sizes=SIZES), 5).state_dict()
    other = scratch.state_dict()
    for name, tensor in pretrained.state_dict().items():
        inherited = "image_encoder." + name.removeprefix("vit.")
        if inherited in expected:
            assert torch.equal(tensor, expected[inherited])
        else:
            assert torch.equal(tensor, other[name])
    assert not torch.equal(pretrained.vit.blocks[0].attn.qkv.weight, scratch.vit.blocks[0].attn.qkv.weight)


def test_arms_with_the_same_weights_come_out_the_same(tmp_path: Path) -> None:
    """So the comparison is fair: the crops, their order and the budget are the same."""
    results = transfer(config(tmp_path, seed=0))
    assert results["pretrained"] == results["scratch"]
    saved = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert saved["gain"] == {"dice": 0, "targets": {"liver": 0, "lung_left": 0}}
    assert saved["arms"]["scratch"]["targets"] == results["scratch"].targets
    assert saved["config"]["data"]["targets"] == ["liver", "lung_left"]


@pytest.mark.slow
def test_the_command_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"""
        [run]
        out = "{tmp_path}"
        epochs = 4
        batch = 2
        device = "cpu"
        [model]
        name = "small"
        start = "weights"
        weights = "{weights(tmp_path, 3)}"
        features = 4
        [model.sizes]
        image_size = 32
        width = 24
        depth = 2
        heads = 2
        window = 2
        global_blocks = [1]
        prompt_width = 48
        [data]
        source = "phantom"
        targets = ["body", "liver"]
        crops_per_epoch = 16
        train_cases = 2
        validation_cases = 1
        [optimizer]
        cycle = 4
        milestones = []
    """
    (tmp_path / "transfer.toml").write_text(text)
    assert main([str(tmp_path / "transfer.toml"), "optimizer.lr=3e-3"]) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "transfer.json").read_text())
    for arm in ARMS:
        losses = saved["arms"][arm]["losses"]
        assert losses[-1] < 0.8 * losses[0]
        assert saved["arms"][arm]["targets"]["body"] > 0.6
        assert f"{saved['arms'][arm]['dice']:.3f}" in printed
    assert saved["arms"]["pretrained"] != saved["arms"]["scratch"]


def test_what_the_user_can_mend_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer.toml", f"model.weights={tmp_path / 'gone.pth'}", f"run.out={tmp_path}"]) == 2
    assert "gone.pth" in capsys.readouterr().err


def test_a_folder_that_takes_no_file_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.training.transfer, "_train", lambda *_: pytest.fail("hours would be lost"))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SamMed3DError, match="out could not be written") as caught:
        transfer(config(tmp_path, 1))
    assert caught.value.code is ErrorCode.FILE_WRITE


def test_want_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr(backend.training.transfer, "_train", train)
    with pytest.raises(SamMed3DError, match=r"2 GiB\. Lower run\.batch") as caught:
        transfer(config(tmp_path, 1))
    assert caught.value.code is ErrorCode.DEVICE_MEMORY


def test_weights_with_adapters_are_refused_as_they_have_no_arm_beside_them(tmp_path: Path) -> None:
    sizes = model_sizes(ModelSection(name="small", sizes=SIZES))
    assert isinstance(sizes, ModelConfig)
    save_safetensors(AdaptedSamMed3D(sizes), tmp_path / "adapted.safetensors")
    plain = config(tmp_path, 1)
    model = plain.model.model_copy(update={"weights": tmp_path / "adapted.safetensors"})
    with pytest.raises(SamMed3DError, match="adapters") as caught:
        build_network(plain.model_copy(update={"model": model}), "pretrained")
    assert caught.value.code is ErrorCode.CONFIG_INVALID


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        (TransferModelSection, {"start": "scratch"}),
        (TransferModelSection, MODEL | {"freeze": ("mask_decoder",)}),
        (TransferModelSection, {"name": "compact", "start": "weights", "weights": Path("w.pth")}),
        (TransferModelSection, {"start": "adapters", "weights": Path("w.pth")}),
        (partial(TransferConfig, model=MODEL, data=PHANTOMS), {"optimizer": {"ema_decay": 0.9}}),
        (partial(TransferConfig, model=MODEL, data=PHANTOMS), {"optimizer": {"prompt_decoder_scale": 1.0}}),
        (TransferDataSection, {"source": "index", "targets": ("liver",)}),
        (TransferDataSection, {"source": "phantom", "targets": ("liver",)}),
        (TransferDataSection, {"source": "index", "path": Path("p"), "targets": ("liver", "liver")}),
        (TransferDataSection, {"source": "index", "path": Path("p"), "targets": ()}),
    ],
)
def test_impossible_configurations_are_refused(section: Callable[..., Any], keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scratch|freeze|compact|adapters|optimizer|path|endless|twice|targets"):
        section(**keys)


def test_a_batch_depends_on_seed_epoch_and_indices_alone() -> None:
    cases, _ = find_transfer_cases(PHANTOMS, 32, seed=0)
    one = training_batch(cases, 32, 7, 3, [0, 1, 2])
    again = training_batch(cases, 32, 7, 3, [2, 0])
    assert torch.equal(one.image[[2, 0]], again.image)
    assert torch.equal(one.labels[[2, 0]], again.labels)
    assert one.image.shape == one.labels.shape == (3, 1, 32, 32, 32)
    for other in (training_batch(cases, 32, 8, 3, [0]), training_batch(cases, 32, 7, 4, [0])):
        assert not torch.equal(other.image, one.image[:1])


def test_phantoms_differ() -> None:
    train, validation = find_transfer_cases(PHANTOMS, 32, seed=0)
    shapes = {
        case.name: tuple(int((labels == k).sum()) for k in (1, 2))
        for case in (*train, *validation)
        for _, labels in [case.whole()]
    }
    assert len(train) == 2
    assert len(validation) == 1
    assert len(set(shapes.values())) == 3
    assert all(min(counts) > 100 for counts in shapes.values())


def test_phantoms_show_only_what_they_have() -> None:
    with pytest.raises(SamMed3DError, match="wing") as refused:
        find_transfer_cases(PHANTOMS.model_copy(update={"targets": ("liver", "wing")}), 32, seed=0)
    assert refused.value.code == ErrorCode.CONFIG_INVALID


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Three volumes: a bright cube in all, a dim one inside it in the first, another target alone in the last."""
    entries = []
    for number, split in enumerate(("train", "validation", "validation")):
        image = np.full((40, 30, 20), 1, dtype=np.int16)
        mask = np.zeros(image.shape, dtype=np.uint8)
        mask[4:20, 6:18, 2:12] = 1
        image[mask > 0] = 100
        inner = np.zeros_like(mask)
        inner[8:12, 8:12, 4:8] = 1
        write_array(tmp_path / f"image-{number}.b2nd", image)
        shown = {0: {"organ": mask, "lesion": inner}, 1: {"organ": mask}, 2: {"other": mask}}[number]
        for target, values in shown.items():
            write_array(tmp_path / f"{target}-{number}.b2nd", values)
            voxels = np.argwhere(values)
            entries.append(entry(number, target, split, (voxels.min(0).tolist(), voxels.max(0).tolist())))
    write_index(tmp_path, entries)
    return tmp_path


def entry(number: int, target: str, split: str, box: Any) -> IndexEntry:
    return IndexEntry.model_validate(
        {
            "id": f"{target}-{number}",
            "image": f"image-{number}.b2nd",
            "mask": f"{target}-{number}.b2nd",
            "case": f"case-{number}",
            "subject": f"subject-{number}",
            "dataset": "made",
            "modality": "CT",
            "target": target,
            "structure": "organ",
            "spacing": 1.5,
            "source_spacing": (1.5, 1.5, 1.5),
            "affine": np.diag([1.5, 1.5, 1.5, 1]).tolist(),
            "shape": (40, 30, 20),
            "box": box,
            "volume_ml": 1.0,
            "pretrain": True,
            "finetune": False,
            "split": split,
        }
    )


def test_prepared_volumes(prepared: Path) -> None:
    section = TransferDataSection(path=prepared, targets=("organ", "lesion"))
    (train,), (validation,) = find_transfer_cases(section, 16, seed=0)
    image, labels = train.whole()
    assert image.shape == (40, 30, 20)
    assert {label: int((labels == label).sum()) for label in (1, 2)} == {1: 16 * 12 * 10 - 64, 2: 64}
    assert (labels[8:12, 8:12, 4:8] == 2).all()  # the later target counts
    assert set(np.unique(validation.whole()[1])) == {0, 1}
    batch = training_batch([train], 16, 0, 0, range(20))
    assert set(batch.labels.unique().tolist()) == {0, 1, 2}
    bright = batch.image > batch.image.mean((1, 2, 3, 4), keepdim=True)
    assert (bright == (batch.labels > 0)).float().mean() > 0.99  # image and labels are cut alike


def test_targets_must_be_there(prepared: Path) -> None:
    with pytest.raises(SamMed3DError, match=r"wing.*lesion, organ, other") as refused:
        find_transfer_cases(TransferDataSection(path=prepared, targets=("wing",)), 16, seed=0)
    assert refused.value.code == ErrorCode.CONFIG_INVALID
    with pytest.raises(SamMed3DError, match="train") as refused:
        find_transfer_cases(TransferDataSection(path=prepared, targets=("other",)), 16, seed=0)
    assert refused.value.code == ErrorCode.DATA_INDEX


def test_a_volume_smaller_than_the_window_is_segmented_whole(tmp_path: Path) -> None:
    setting = config(tmp_path, seed=0)
    labels = segment(
        build_network(setting, "scratch").eval(),
        np.random.default_rng(0).normal(size=(20, 33, 48)).astype(np.float32),
        torch.device("cpu"),
        setting,
    )
    assert labels.shape == (20, 33, 48)
