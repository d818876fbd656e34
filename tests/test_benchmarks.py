"""The benchmarks' command lines, and what they promise; their figures are not tested."""

import runpy
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from backend.phantom import torso

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives what a benchmark defines, by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: runpy.run_path(str(BENCHMARKS / f"{name}.py"))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("clicks", "--rounds"),
        ("clicks", "--threads"),
        ("compact", "--rounds"),
        ("compact", "--threads"),
        ("encoder", "--repeats"),
        ("encoder", "--threads"),
        ("scaling", "--samples"),
        ("scaling", "--cores"),
        ("train_step", "--repeats"),
        ("train_step", "--threads"),
    ],
)
def test_none_of_something_is_refused_at_once(
    benchmark_of: Any, name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, option, "0"])
    with pytest.raises(SystemExit) as caught:
        benchmark_of(name)["main"]()
    assert caught.value.code == 2
    assert f"argument {option}: 0 is less than 1" in capsys.readouterr().err


def test_the_next_clicks_stay_in_the_volume_and_differ(benchmark_of: Any) -> None:
    phantom = torso()
    middle = phantom.middle_of("liver")
    found = list(islice(benchmark_of("compact")["beside"](middle), 1000))
    assert all(0 <= at < count for point in found for at, count in zip(point, phantom.volume.shape, strict=True))
    assert len(set(found[:255])) == 255
    assert middle not in found
