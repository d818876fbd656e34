"""What the plugin remembers from one session to the next, in napari's own plugin configuration."""

from typing import Any

from napari.settings import get_plugin_settings


def segment_settings() -> Any:
    """The section "segment" of the manifest's configurations; setting an attribute saves it."""
    return get_plugin_settings("napari-samed3d").segment
