"""Weights by name: where they are looked for, and what is said when they are nowhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import ErrorCode, SamMed3DError
from backend.models import zoo
from backend.models.config import ModelConfig
from backend.models.download import HubFile

TURBO = "sam_med3d_turbo"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "weights"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[HubFile]:
    asked: list[HubFile] = []

    def fetch(file: HubFile, target: Path, *_: object) -> None:
        asked.append(file)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"weights")

    monkeypatch.setattr(zoo, "fetch", fetch)
    return asked


def refusal(name_or_path: str | Path, download: bool = True) -> SamMed3DError:
    with pytest.raises(SamMed3DError) as caught:
        zoo.find_weights(name_or_path, download)
    return caught.value


PUBLISHED = [name for name in zoo.names() if name != zoo.SHIPPED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_entries(name: str) -> None:
    entry = zoo.entry(name)
    assert entry.name == name
    assert isinstance(entry.config, ModelConfig)
    assert entry.hub == HubFile("blueyo0/SAM-Med3D", f"{name}.pth", "main")
    assert entry.config.box_prompts is (name != TURBO)
    assert entry.licence == "Apache-2.0"


def test_the_shipped_weights_are_here_without_a_network(downloads: list[HubFile]) -> None:
    path = zoo.find_weights(zoo.SHIPPED, download=False)
    assert zoo.is_available(zoo.SHIPPED)
    assert path.stat().st_size < 25e6
    assert not downloads


def test_unknown_name_lists_the_known_ones() -> None:
    error = refusal("sam_med4d")
    assert error.code is ErrorCode.MODEL_UNKNOWN
    assert "sam_med4d" in error.problem
    assert all(name in error.remedy for name in zoo.names())


def test_file_is_taken_as_given(tmp_path: Path, downloads: list[HubFile]) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(b"mine")
    assert zoo.find_weights(str(path)) == path
    assert not downloads


@pytest.mark.parametrize("name", ["gone.pth", "folder/gone.SAFETENSORS", Path("gone.pt")])
def test_missing_file_is_not_taken_for_a_name(name: str | Path) -> None:
    assert refusal(name).code is ErrorCode.FILE_MISSING


def test_downloaded_once_then_from_the_cache(cache: Path, downloads: list[HubFile]) -> None:
    assert not zoo.is_available(TURBO)
    assert zoo.find_weights(TURBO) == zoo.find_weights(TURBO) == cache / "sam_med3d_turbo.pth"
    assert downloads == [zoo.entry(TURBO).hub]
    assert zoo.is_available(TURBO)


def test_offline_works_from_the_cache(cache: Path) -> None:
    cache.mkdir()
    (cache / "sam_med3d_turbo.pth").write_bytes(b"weights")
    assert zoo.find_weights(TURBO).read_bytes() == b"weights"


@pytest.mark.parametrize("download", [True, False])
def test_offline_and_not_cached_says_where_to_put_the_file(download: bool, cache: Path) -> None:
    error = refusal(TURBO, download)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert str(cache / "sam_med3d_turbo.pth") in error.remedy


def test_changed_cached_file_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "sam_med3d_turbo.pth").write_bytes(b"weights")
    pin = f'{{"url": "", "commit": "", "sha256": "{"0" * 64}", "size": 7}}'
    (cache / "sam_med3d_turbo.pth.json").write_text(pin)
    assert refusal(TURBO).code is ErrorCode.DOWNLOAD_CHANGED


def test_cache_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAPARI_SAMED3D_CACHE")
    assert zoo.weights_path(TURBO).parts[-3:] == ("napari-samed3d", "weights", "sam_med3d_turbo.pth")


def test_importing_the_zoo_imports_no_torch() -> None:
    code = "import sys, backend.models.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("cache", ["~nosuchuser/cache", "x" * 300])
def test_a_cache_that_cannot_be_is_one_without_weights(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", cache)
    assert not zoo.is_available(TURBO)
    assert refusal(TURBO, download=False).code is ErrorCode.DOWNLOAD_FAILED
    assert refusal("~nosuchuser/w.pth").code is ErrorCode.FILE_MISSING
    assert refusal("x" * 300).code is ErrorCode.MODEL_UNKNOWN


def test_weights_that_may_not_be_read_are_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "sam_med3d_turbo.pth").write_bytes(b"weights")
    (cache / "sam_med3d_turbo.pth.json").write_text("{}")

    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert refusal(TURBO).code is ErrorCode.FILE_READ
