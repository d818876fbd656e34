"""The scripts beside the packages: each works on the clone that it lies in, and refuses what would do harm."""

import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import ErrorCode, SamMed3DError
from backend.models import zoo
from backend.models.checkpoint import load_model, save_safetensors
from backend.models.compact import Compact
from backend.models.config import CompactConfig

posix = pytest.mark.skipif(os.name != "posix", reason="no POSIX shell")
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TINY = CompactConfig(
    image_size=16, stem=(8, 16), stem_depth=(1, 1), width=48, depth=1, heads=2, decoder_heads=2, decoder_mlp=32
)


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / name))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the package's own weights, which are of a tiny network here."""
    path = tmp_path / "weights" / "compact.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"those before")
    entry = replace(zoo.entry(zoo.SHIPPED), config=TINY)
    monkeypatch.setattr(zoo, "weights_path", lambda _: path)
    monkeypatch.setattr(zoo, "entry", lambda _: entry)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_safetensors(Compact(TINY), folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("name", ["ship_weights.py", "grow_weights.py"])
def test_a_script_imports_the_clone_that_it_lies_in(name: str, tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("raise ImportError('of another clone')\n")
    command = [sys.executable, SCRIPTS / name, "--help"]
    told = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "usage" in told.stdout


def test_weights_are_shipped_in_half_precision(shipped: Path, run: Path) -> None:
    assert script("ship_weights.py")["main"]([str(run)]) == 0
    assert shipped.stat().st_size < 0.6 * (run / "weights.safetensors").stat().st_size
    load_model(shipped, TINY)
    assert list(shipped.parent.iterdir()) == [shipped]


def test_weights_that_half_precision_cannot_hold_are_not_shipped(
    shipped: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Compact(TINY)
    with torch.no_grad():
        model.image_encoder.norm.weight[0] = 7e4
    save_safetensors(model, run / "weights.safetensors")
    assert script("ship_weights.py")["main"]([str(run)]) == 2
    assert "checkpoint.values" in capsys.readouterr().err
    assert shipped.read_bytes() == b"those before"
    assert list(shipped.parent.iterdir()) == [shipped]


def test_a_run_without_weights_is_told(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("ship_weights.py")["main"]([str(tmp_path / "none")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_only_blocks_and_steps_may_be_new_in_a_grown_network() -> None:
    state = {name: value for name, value in Compact(TINY).state_dict().items() if "mask_token" not in name}
    with pytest.raises(SamMed3DError, match="mask_token") as caught:
        script("grow_weights.py")["grow"](Compact(TINY), state)
    assert caught.value.code == ErrorCode.CHECKPOINT_MISMATCH


@dataclass(frozen=True)
class Shell:
    """A clone with nothing but its shell scripts, on a Debian where apt-get only notes what it is asked for."""

    folder: Path

    def __call__(self, name: str, *arguments: str, python: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHON": python}
        command = ["sh", self.folder / "scripts" / name, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    @property
    def asked(self) -> str:
        noted = self.folder / "asked"
        return noted.read_text() if noted.exists() else ""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    programs = {
        "apt-get": f'echo "$*" >> "{tmp_path}/asked"',
        "dpkg": "case $2 in *venv) exit 1 ;; esac; echo Status: install ok installed",
        "sudo": '"$@"',
        "bare": 'case "$*" in *ensurepip*) exit 1 ;; *print*) echo python3.12-venv ;; *venv*) exit 3 ;; esac',
    }
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    return Shell(tmp_path)


@posix
def test_an_unknown_extra_is_refused(shell: Shell) -> None:
    told = shell("setup.sh", "al", python="bare")
    assert told.returncode == 2
    assert "all or dev" in told.stderr
    assert not list(shell.folder.glob(".venv/*"))


@posix
def test_a_python_without_ensurepip_gets_the_package_of_its_own_version(shell: Shell) -> None:
    assert shell("setup.sh", "dev", python="bare").returncode == 3
    assert "install -y python3.12-venv" in shell.asked


@posix
def test_a_python_that_is_not_there_installs_nothing(shell: Shell) -> None:
    told = shell("setup.sh", "dev", python="none")
    assert told.returncode == 1
    assert "make PYTHON=" in told.stderr
    assert shell("system.sh", python="none").returncode == 0
    assert not shell.asked


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_linters_need_no_system_libraries() -> None:
    for target, needs in (("lint", False), ("test", True), ("demo", True)):
        command = ["make", "-n", "-W", "setup.cfg", target]
        told = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True, check=True)
        assert ("scripts/system.sh" in told.stdout) == needs
        assert "scripts/setup.sh" in told.stdout
