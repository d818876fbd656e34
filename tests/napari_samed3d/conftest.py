"""A real napari window with the plugin in it."""

from pathlib import Path
from typing import Any

import pytest
from driver import Window
from npe2 import PluginManifest

from backend.phantom import Phantom, torso
from napari_samed3d.settings import segment_settings


@pytest.fixture
def window(
    make_napari_viewer: Any, plugin_settings: None, npe2pm: Any, qtbot: Any, tmp_path: Path, monkeypatch: Any
) -> Window:
    """A window with fresh settings, in which region growing answers: it is quick, and its masks are predictable."""
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path / "cache"))
    if "napari-samed3d" not in npe2pm:
        npe2pm.register(PluginManifest.from_distribution("napari-samed3d"))
    segment_settings().model = "region"
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    return Window(viewer, qtbot)


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """A synthetic torso with known organs."""
    return torso()
