import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.loading import AUTO, REGION, load_engine, model_names, resolve
from backend.models import zoo
from backend.models.checkpoint import save_safetensors
from backend.models.compact import Compact
from backend.models.config import COMPACT, SMALL
from backend.models.region import Region
from backend.models.sam_med3d import SamMed3D


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path / "cache"))


def test_auto_is_the_first_model_whose_weights_are_here() -> None:
    assert resolve(AUTO) == zoo.SHIPPED
    before = zoo.SHIPPED
    for name in reversed(zoo.names()[:-1]):
        path = zoo.weights_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        before = before if zoo.entry(name).to_train else name
        assert resolve(AUTO) == before
    assert zoo.entry("sam_med3d_turbo_bbox_init").to_train
    assert resolve(REGION) == REGION
    assert resolve("some/file.pth") == "some/file.pth"


def test_auto_and_every_name_can_be_asked_for() -> None:
    assert model_names() == (AUTO, *zoo.names(), REGION)


def test_auto_needs_no_network() -> None:
    engine = load_engine(AUTO, "cpu")
    assert isinstance(engine.model, Compact)
    assert engine.model.config == COMPACT
    assert engine.model.dtype == torch.float32  # though the file has half of it


def test_region_needs_no_weights_and_no_gpu() -> None:
    engine = load_engine(REGION)
    assert isinstance(engine.model, Region)
    assert engine.device.type == "cpu"


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(SamMed3D(SMALL).state_dict(), path)  # without its sizes it is taken for the published one
    with pytest.raises(SamMed3DError) as caught:
        load_engine(path, "cpu")
    assert caught.value.code == ErrorCode.CHECKPOINT_MISMATCH


def test_file_that_says_the_sizes_of_its_network_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_safetensors(SamMed3D(SMALL), path)
    assert load_engine(path, "cpu").model.image_size == SMALL.image_size


def test_what_the_window_imports_brings_no_torch() -> None:
    modules = "backend.inference.loading, backend.inference.prompts, backend.geometry, backend.models.zoo"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_a_device_that_is_not_there_is_refused_whatever_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SamMed3DError) as error:
        load_engine(REGION, "cuda")
    assert error.value.code == ErrorCode.DEVICE_UNAVAILABLE
