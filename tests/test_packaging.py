import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backend", "napari_samed3d")
MANIFEST = ROOT / "napari_samed3d" / "napari.yaml"
QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked; built from a copy, since setuptools leaves files of its own beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source],
        check=True,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def declared_version() -> str:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config["metadata"]["version"]


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running that code."""
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    child = subprocess.run(
        [sys.executable, "-c", code + report], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return set(child.stdout.split())


def import_all_of(package: str) -> str:
    return f"""
import importlib, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    importlib.import_module(module.name)
"""


def test_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    metadata = f"napari_samed3d-{declared_version()}.dist-info"
    assert {path.name for path in wheel.iterdir()} == {*PACKAGES, metadata}
    ours = ("*.py", "configs/*.toml", "models/weights/*.safetensors")
    sources = {path.relative_to(ROOT) for name in PACKAGES for glob in ours for path in (ROOT / name).rglob(glob)}
    others = {Path("backend/py.typed"), Path("napari_samed3d/py.typed"), Path("napari_samed3d/napari.yaml")}
    packaged = {path.relative_to(wheel) for name in PACKAGES for path in (wheel / name).rglob("*") if path.is_file()}
    assert packaged == sources | others
    assert (wheel / metadata / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_metadata(wheel: Path) -> None:
    distribution = Distribution.at(next(wheel.glob("*.dist-info")))
    assert distribution.metadata["Name"] == "napari-samed3d"
    assert distribution.version == declared_version()
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata["Requires-Python"] == ">=3.11"
    assert distribution.metadata.get_all("Provides-Extra") == ["all", "dicom", "dev", "train"]
    (entry_point,) = distribution.entry_points
    assert entry_point.group == "napari.manifest"
    assert (entry_point.name, entry_point.value) == ("napari-samed3d", "napari_samed3d:napari.yaml")


def test_one_manifest_in_all_places(wheel: Path) -> None:
    text = MANIFEST.read_text(encoding="utf-8")
    assert (wheel / "napari_samed3d" / "napari.yaml").read_text(encoding="utf-8") == text
    top = (ROOT / "napari.yaml").read_text(encoding="utf-8")
    assert top in (text, "napari_samed3d/napari.yaml")  # git without links checks a link out as its target's path


def test_every_command_of_the_manifest_can_be_called() -> None:
    manifest = PluginManifest.from_file(MANIFEST)
    assert manifest.name == "napari-samed3d"
    for command in manifest.contributions.commands or []:
        module, _, name = str(command.python_name).partition(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_changelog_begins_with_the_declared_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == declared_version()


def test_importing_the_plugin_loads_neither_napari_nor_qt_nor_torch() -> None:
    assert not loaded_by("import napari_samed3d") & {"napari", "torch", *QT}


def test_no_module_of_the_plugin_loads_torch_when_imported() -> None:
    loaded = loaded_by(import_all_of("napari_samed3d"))
    assert "napari" in loaded
    assert "torch" not in loaded


def test_no_module_of_the_backend_loads_napari_or_qt() -> None:
    assert not loaded_by("import backend") & {"napari", "torch", *QT}
    loaded = loaded_by(import_all_of("backend"))
    assert "torch" in loaded
    assert not loaded & {"napari", *QT}
