"""`python -m backend.synthesize`: cases on disk, resumable, the same for the same seed."""

import json
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from backend.io import read_volume
from backend.synthesize import main


def test_cases_are_written_once_and_read_back(tmp_path, capsys):
    arguments = [str(tmp_path), "--count", "2", "--size", "16", "--seed", "5", "--spacing", "2"]
    assert main(arguments) == 0
    assert "2 volumes written, 0 were there" in capsys.readouterr().out
    cases = sorted(tmp_path.iterdir())
    assert [case.name for case in cases] == ["synthetic_000005", "synthetic_000006"]
    for case in cases:
        image, label = read_volume(case / "image.nii.gz"), read_volume(case / "label.nii.gz")
        assert image.shape == label.shape == (16, 16, 16)
        assert image.spacing == label.spacing == (2, 2, 2)
        assert np.unique(np.asarray(label.array)).tolist() == [0, 1]
        assert json.loads((case / "meta.json").read_text())["labels"] == {"1": {"name": "object"}}
    before = (cases[0] / "image.nii.gz").read_bytes()
    for file in cases[1].iterdir():
        file.unlink()
    cases[1].rmdir()
    assert main(arguments) == 0
    assert "1 volumes written, 1 were there" in capsys.readouterr().out
    assert (cases[0] / "image.nii.gz").read_bytes() == before
    assert sorted(tmp_path.iterdir()) == cases


def test_impossible_numbers_are_refused_by_name(tmp_path, capsys):
    impossible = (
        ("--size", "17"),
        ("--count", "0"),
        ("--spacing", "0"),
        ("--spacing", "1e-05"),
        ("--spacing", "2000.0"),
        ("--spacing", "nan"),
        ("--seed", "-1"),
        ("--seed", str(2**63 - 1)),
        ("--jobs", "0"),
    )
    for option, value in impossible:
        assert main([str(tmp_path), option, value]) == 2
        assert f"{option} is {value}" in capsys.readouterr().err
    assert main([str(tmp_path), "--labels", str(tmp_path / "none")]) == 2
    assert "none does not exist" in capsys.readouterr().err


def test_a_killed_process_is_told(tmp_path, capsys, monkeypatch):
    class Killed:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr("backend.synthesize.ProcessPoolExecutor", Killed)
    assert main([str(tmp_path)]) == 2
    assert "Lower --jobs" in capsys.readouterr().err
