from pathlib import Path
from typing import Any

import pytest
import torch
from small_sources import SETTINGS, case_folders

from backend.data.build import build_datasets
from backend.data.index import read_index, write_index
from backend.data.pipeline import prepare
from backend.data.sample import Key, SampleDataset
from backend.data.synthetic import dataset
from backend.errors import ErrorCode, SamMed3DError
from backend.training.batches import Batches
from backend.training.config import DataSection

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six masks: two each of the first stage only, of both stages, and held out."""
    root = tmp_path_factory.mktemp("built")
    prepare([case_folders(root / "demo")], root / "out", SETTINGS)
    entries = read_index(root / "out")
    changes: list[dict[str, Any]] = [{"finetune": False}, {}, {"split": "validation"}]
    write_index(root / "out", [entry.model_copy(update=changes[n // 2]) for n, entry in enumerate(entries)])
    return root / "out"


def built(folder: Path, **changes: Any) -> tuple[SampleDataset, SampleDataset | None]:
    return build_datasets(DataSection(path=folder, jitter=4, **changes), image_size=16, seed=7, device=CPU)


def images(dataset: SampleDataset, epoch: int) -> torch.Tensor:
    return torch.stack([dataset[Key(epoch, index)].image for index in range(len(dataset))])


def keys(dataset: SampleDataset, epoch: int) -> list[int]:
    return [int(dataset[Key(epoch, index)].key) for index in range(len(dataset))]


@pytest.mark.parametrize(("stage", "count"), [("all", 4), ("pretrain", 4), ("finetune", 2)])
def test_training_is_of_its_stage_and_split(folder: Path, stage: str, count: int) -> None:
    training, validation = built(folder, stage=stage)
    assert len(training) == count
    assert validation is not None
    assert len(validation) == 2
    assert not torch.equal(images(training, 0), images(training, 1))


def test_variants_repeat_the_crops_with_new_clicks(folder: Path) -> None:
    training, _ = built(folder, variants=2)
    assert torch.equal(images(training, 1), images(training, 5))
    assert not torch.equal(images(training, 0), images(training, 1))
    assert not set(keys(training, 1)) & set(keys(training, 5))


def test_validation_is_always_the_same(folder: Path) -> None:
    _, validation = built(folder)
    _, again = built(folder, flips=False)
    assert validation is not None
    assert again is not None
    for epoch in (1, 8):
        assert torch.equal(images(validation, 0), images(again, epoch))
        assert keys(validation, 0) == keys(again, epoch)
    _, one = built(folder, validation_samples=1)
    assert one is not None
    assert len(one) == 1


def test_without_held_out_masks_there_is_no_validation(folder: Path) -> None:
    assert built(folder, validation_samples=0)[1] is None


def test_an_index_without_such_masks_is_refused(folder: Path, tmp_path: Path) -> None:
    entries = read_index(folder)
    write_index(tmp_path, [entry.model_copy(update={"finetune": False}) for entry in entries])
    with pytest.raises(SamMed3DError, match="no mask") as caught:
        built(tmp_path, stage="finetune")
    assert caught.value.code == ErrorCode.DATA_INDEX


def test_synthetic_data_for_validation_is_of_its_own() -> None:
    config = DataSection(source="synthetic", samples_per_epoch=3, validation_samples=2)
    training, validation = build_datasets(config, image_size=16, seed=0, device=CPU)
    assert validation is not None
    assert (len(training), len(validation)) == (3, 2)
    assert not torch.equal(images(training, 0)[:2], images(validation, 0))
    assert torch.equal(images(validation, 0), images(validation, 4))
    _, none = build_datasets(config.model_copy(update={"validation_samples": 0}), image_size=16, seed=0, device=CPU)
    assert none is None


def test_label_maps_that_are_not_there_are_noticed_at_once(tmp_path: Path) -> None:
    config = DataSection(source="synthetic", samples_per_epoch=3, labels=(tmp_path / "misspelt",))
    with pytest.raises(SamMed3DError, match="misspelt does not exist"):
        build_datasets(config, image_size=16, seed=0, device=CPU)


@pytest.mark.parametrize(
    ("workers", "device", "made_on"), [(0, "cuda:1", "cuda:1"), (2, "cuda:1", "cpu"), (0, "mps", "cpu")]
)
def test_a_rank_without_workers_makes_synthetic_data_on_its_cuda_device(
    workers: int, device: str, made_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    monkeypatch.setattr(
        dataset, "SyntheticDataset", lambda *args, **_: devices.append(args[4] if len(args) > 4 else "cpu")
    )
    config = DataSection(source="synthetic", samples_per_epoch=3, validation_samples=2, workers=workers)
    build_datasets(config, image_size=16, seed=0, device=torch.device(device))
    assert devices == [made_on, "cpu"]  # validation is the same everywhere


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_synthetic_data_made_on_a_gpu_is_loaded() -> None:
    gpu = torch.device("cuda", 0)
    config = DataSection(source="synthetic", samples_per_epoch=3, validation_samples=0, workers=0)
    training, _ = build_datasets(config, image_size=32, seed=0, device=gpu)
    (batch,) = Batches(training, None, 0, gpu).training([(Key(0, 0), Key(0, 1))])
    assert batch.image.device == batch.mask.device == gpu
    assert batch.mask.flatten(1).any(1).all()
