from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from backend.data.index import read_index
from backend.prepare import configured, main, parser


def source(root: Path) -> Path:
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    label[5:15, 5:15, 5:15] = 1
    affine = np.diag([2.0, 2, 2, 1])
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        nib.Nifti1Image(np.full(label.shape, 5000, np.int16), affine).to_filename(root / name / "image.nii.gz")
        nib.Nifti1Image(label, affine).to_filename(root / name / "label.nii.gz")
    return root


def test_the_command_prepares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [str(source(tmp_path / "in")), str(out), "--modality", "in=ct", "--spacing", "2", "--validation", "1"]
    assert main([*words, "--workers", "1"]) == 0
    entries = read_index(out)
    assert [(entry.case, entry.modality, entry.spacing, entry.split) for entry in entries] == [
        ("one", "CT", 2.0, "validation"),
        ("two", "CT", 2.0, "validation"),
    ]
    said = capsys.readouterr()
    assert "2 masks (2 for validation) of 2 volumes; 0 cases set aside" in said.out
    assert str(out / "report.md") in said.out


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = str(source(tmp_path / "in"))
    for words, said in (
        ([str(tmp_path / "absent"), str(tmp_path / "out")], "absent"),
        ([given, str(tmp_path / "out"), "--spacing", "-1"], "--spacing cannot be -1.0: Input should be greater than 0"),
        ([given, str(tmp_path / "out"), "--validation", "2"], "--validation cannot be 2.0"),
        ([given, str(tmp_path / "out"), "--min-volume", "-1"], "--min-volume cannot be -1.0"),
        ([given, str(tmp_path / "out"), "--modality", "X-ray"], "--modality cannot be 'X-ray'"),
        ([given, str(tmp_path / "out"), "--subject", "("], "no regular expression"),
        ([given, given, str(tmp_path / "out")], "both hold"),
        (
            [given, str(tmp_path / "out"), "--hold-out", "on"],
            "There is no dataset on to hold out. The sources hold",
        ),
        ([given, str(tmp_path / "out"), "--min-volume", "999", "--modality", "CT"], "None of 2 targets of 2 volumes"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "index.jsonl").exists()


def test_defaults_are_the_papers() -> None:
    config = configured(parser().parse_args(["a", "b", "c"]))
    assert config.preparation.spacing == 1.5
    cleaning = config.preparation.cleaning
    assert (cleaning.min_volume_ml, cleaning.min_extent_mm) == (1.0, 15.0)
    assert (cleaning.max_background_share, cleaning.keep_components) == (0.99, 5)
    assert "kidney" in cleaning.symmetric
    assert config.split.modalities == ("US",)
    assert config.max_bad == 0.01
