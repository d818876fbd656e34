"""What the README shows to be typed does what it says."""

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from backend.io import read_volume
from backend.phantom import Phantom, torso
from backend.predict import main

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phantom:
    """A folder with a ct.nii.gz, the current one; no published weights at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path / "cache"))
    out = torso()
    nib.save(nib.Nifti1Image(np.asarray(out.volume.array), out.volume.affine), "ct.nii.gz")
    return out


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def liver_dice(phantom: Phantom) -> float:
    """How well mask.nii.gz agrees with the phantom's liver."""
    mask = read_volume("mask.nii.gz")
    assert np.array_equal(mask.affine, phantom.volume.affine)
    found, truth = np.asarray(mask.array) == 1, phantom.labels == phantom.names.index("liver") + 1
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_the_python_example(phantom: Phantom) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    x, y, z = (int(number) for number in re.findall(r"click\(\((\d+), (\d+), (\d+)\), positive=False", code)[0])
    assert phantom.labels[x, y, z] != phantom.names.index("liver") + 1
    assert liver_dice(phantom) > 0.85


def test_the_command_line_example(phantom: Phantom) -> None:
    (command,) = (line for block in blocks("sh") for line in block.splitlines() if "backend.predict" in line)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "backend.predict"]
    assert main(words[3:]) == 0
    assert liver_dice(phantom) > 0.85
