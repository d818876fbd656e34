"""How a command ends."""

import argparse
from pathlib import Path

import pytest

from backend import cli, train
from backend.cli import exit_status
from backend.errors import ErrorCode, SamMed3DError


def stop(_options: argparse.Namespace) -> None:
    raise KeyboardInterrupt


def refuse(_options: argparse.Namespace) -> None:
    raise SamMed3DError(ErrorCode.CONFIG_INVALID, "It is 3.", "Give 4.")


@pytest.mark.parametrize(
    ("run", "status", "said"), [(stop, 130, "stopped\n"), (refuse, 2, "error: It is 3. Give 4. [config.invalid]\n")]
)
def test_a_command_ends_in_a_line_and_a_status(
    capsys: pytest.CaptureFixture[str], run: object, status: int, said: str
) -> None:
    assert exit_status(run, argparse.Namespace()) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("torchrun", [False, True])
def test_weights_by_name_are_had_before_training_but_not_by_each_rank_of_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchrun: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(train, "fetch_with_bar", lambda weights: done.append(f"fetch {weights}"))
    monkeypatch.setattr(train, "launch", lambda config: done.append(f"train {config.run.out}"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0") if torchrun else monkeypatch.delenv(name, raising=False)
    words = ["smoke.toml", f"run.out={tmp_path}", "model.start=weights", "model.weights=sam_med3d_turbo"]
    assert train.main(words) == 0
    assert done == ([] if torchrun else ["fetch sam_med3d_turbo"]) + [f"train {tmp_path}"]


def test_the_model_the_device_and_the_precision_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(cli, "load_engine", lambda *words: asked.append(words[:3]))
    parser = argparse.ArgumentParser()
    cli.add_model_options(parser)
    cli.load_with_bar(parser.parse_args(["--model", "a.pth", "--device", "cuda", "--precision", "bfloat16"]))
    cli.load_with_bar(parser.parse_args([]))
    assert asked == [("a.pth", "cuda", "bfloat16"), ("auto", "auto", "auto")]
