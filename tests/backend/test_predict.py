import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from inference.fakes import Ball, dice, noise, painted, solver

from backend import cli, predict
from backend.geometry import apply_affine
from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.prompts import Click
from backend.inference.solvers import make_solver
from backend.io import read_volume, write_mask
from backend.models.checkpoint import load_model, save_safetensors
from backend.models.config import VIT_B_ORI
from backend.models.sam_med3d import SamMed3D
from backend.phantom import torso

Mask = npt.NDArray[np.bool_]
AFFINE = np.array([[0, -1.4, 0.1, 30], [-1.5, 0, 0, 20], [0, 0.1, 1.6, -70], [0, 0, 0, 1]])
MIDDLE = ["30", "25", "20"]
PUBLISHED = ("ct_ts_dicom20", "ct_msd_spleen2", "mr_fetal_brain_run3", "mr_torchio_t2_gif", "pet_sts_004")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Noise, 60 x 50 x 40, oblique."""
    path = tmp_path / "image.nii.gz"
    volume = noise((60, 50, 40), AFFINE)
    nifti = nib.Nifti1Image(np.asarray(volume.array), AFFINE)
    nifti.set_sform(AFFINE, 1)
    nifti.to_filename(path)
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Ball:
    """Stands in for whatever the command would load."""
    ball = Ball(32, 16, supports_boxes=True)
    monkeypatch.setattr(cli, "load_engine", lambda *_: Engine(ball, torch.device("cpu")))
    return ball


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path / "cache"))


def run(image: Path, *options: object) -> Mask:
    """Run the command and read the mask that it wrote."""
    output = image.with_name("mask.nii.gz")
    output.unlink(missing_ok=True)
    assert predict.main([str(image), "-o", str(output), *map(str, options)]) == 0
    mask: Mask = np.asarray(nib.load(output).dataobj) == 1
    return mask


def refusal(capsys: pytest.CaptureFixture[str], image: Path, *options: object) -> str:
    """Run the command, which must refuse in one line and write nothing."""
    output = image.with_name("mask.nii.gz")
    assert predict.main([str(image), "-o", str(output), *map(str, options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not output.exists()
    return err


def labels(model: Ball) -> list[int]:
    return [label for call in model.calls for label in call.labels]


def test_mask_is_the_solvers_on_the_images_grid(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    mask = run(image, "--point", *MIDDLE)
    expected = painted(solver(Ball(), read_volume(image)), [Click((30, 25, 20))])
    np.testing.assert_array_equal(mask, expected)
    written, given = nib.load(image.with_name("mask.nii.gz")), nib.load(image)
    np.testing.assert_array_equal(written.affine, given.affine)
    assert written.get_data_dtype() == np.uint8
    millilitres = mask.sum() * abs(np.linalg.det(given.affine)) / 1000
    assert f"{mask.sum()} voxels, {millilitres:.3f} ml" in capsys.readouterr().out


def test_point_in_mm_is_the_same_point(image: Path, model: Ball) -> None:
    by_index = run(image, "--point", *MIDDLE, "--negative", 37, 25, 20)
    points = nib.load(image).affine @ np.array([[30, 25, 20, 1], [37, 25, 20, 1]]).T
    by_mm = run(image, "--point-mm", *points[:3, 0], "--negative-mm", *points[:3, 1])
    np.testing.assert_array_equal(by_index, by_mm)
    assert by_mm[30, 25, 20]
    assert by_mm.sum() < run(image, "--point", *MIDDLE).sum()
    assert labels(model) == [1, 0, 1, 0, 1]


def test_clicks_keep_their_order(image: Path, model: Ball) -> None:
    mask = run(image, "--point", *MIDDLE, "--negative", *MIDDLE, "--point", *MIDDLE, "--negative", 33, 25, 20)
    assert labels(model) == [1, 0, 1, 0]
    assert not mask[33, 25, 20]
    run(image, "--point", *MIDDLE, "--negative", 33, 25, 20, "--point", 33, 25, 20)
    assert labels(model)[4:] == [1, 0, 1]


def test_box_comes_before_the_clicks(image: Path, model: Ball) -> None:
    run(image, "--negative", 33, 25, 20, "--box", 25, 20, 15, 35, 30, 25)
    assert labels(model) == [2, 3, 0]
    corner, opposite = model.calls[0].points
    sides_mm = np.abs(nib.affines.voxel_sizes(AFFINE) * 10)
    np.testing.assert_allclose(np.sort(np.abs(opposite - corner)) * 1.5, np.sort(sides_mm), atol=1.5)


def test_initial_mask_comes_first(image: Path, model: Ball) -> None:
    start = np.zeros((60, 50, 40), dtype=np.uint8)
    start[22:38, 17:33, 12:28] = 5
    path = image.with_name("start.nii.gz")
    write_mask(path, start, read_volume(image))
    assert dice(run(image, "--initial-mask", path), start > 0) > 0.9
    assert not model.calls
    run(image, "--negative", 33, 25, 20, "--initial-mask", path)
    assert model.calls
    assert labels(model) == [0] * len(model.calls)
    assert all(call.previous.max() > 0 for call in model.calls)


def test_of_an_initial_mask_of_several_objects_one_is_chosen(
    image: Path, model: Ball, capsys: pytest.CaptureFixture[str]
) -> None:
    start = np.zeros((60, 50, 40), dtype=np.uint8)
    start[22:38, 17:33, 12:28], start[:5] = 5, 2
    path = image.with_name("start.nii.gz")
    write_mask(path, start, read_volume(image))
    assert "holds the labels 2, 5. Choose one of them with --label" in refusal(capsys, image, "--initial-mask", path)
    assert "and not 3" in refusal(capsys, image, "--initial-mask", path, "--label", 3)
    assert "--label 5 is of an initial mask" in refusal(capsys, image, "--point", *MIDDLE, "--label", 5)
    assert dice(run(image, "--initial-mask", path, "--label", 5), start == 5) > 0.9


def test_an_output_that_cannot_hold_the_grid_is_refused_before_the_work(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "load_with_bar", lambda _: pytest.fail("a long download, perhaps"))
    tilted = AFFINE.copy()
    tilted[1, 2] += 1
    nib.Nifti1Image(np.asarray(nib.load(image).dataobj), tilted).to_filename(image)
    words = [str(image), "--point", *map(str, MIDDLE), "-o", str(image.with_name("mask.mha"))]
    assert predict.main(words) == 2
    assert "sheared" in capsys.readouterr().err


def test_frame_of_a_4d_image(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    path = image.with_name("frames.nii.gz")
    first = np.asarray(nib.load(image).dataobj)
    nib.Nifti1Image(np.stack([first, first[::-1], first[:, ::-1]], axis=-1), AFFINE).to_filename(path)
    assert run(path, "--point", *MIDDLE, "--frame", 2).shape == (60, 50, 40)
    nib.Nifti1Image(first[:, ::-1], AFFINE).to_filename(image)
    run(image, "--point", *MIDDLE)
    np.testing.assert_array_equal(model.calls[0].embedding, model.calls[1].embedding)
    path.with_name("mask.nii.gz").unlink()
    capsys.readouterr()
    assert "frame" in refusal(capsys, path, "--point", *MIDDLE)


@pytest.mark.parametrize("stay", [False, True])
def test_no_extend_stays_in_the_first_window(image: Path, model: Ball, stay: bool) -> None:
    model.radius = 20.0
    run(image, "--point", *MIDDLE, *["--no-extend"] * stay)
    assert (len(model.calls) == 1) == stay


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], "prompt.needs_positive"),
        (["--negative", 30, 25, 20], "prompt.needs_positive"),
        (["--point", 60, 25, 20], "prompt.invalid"),
        (["--point", "nan", 25, 20], "prompt.invalid"),
        (["--point-mm", 1e6, 0, 0], "prompt.invalid"),
        (["--point", 30, 25, 20, "--box", -1, 0, 0, 5, 5, 5], "prompt.invalid"),
        (["--point", 30, 25, 20, "--model", "sam_med4d"], "model.unknown"),
        (["--point", 30, 25, 20, "--model", "missing.pth"], "file.missing"),
        (["--initial-mask", "missing.nii"], "file.missing"),
    ],
)
def test_mistake_is_one_line_with_its_code(
    image: Path, options: list[object], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"[{code}]" in refusal(capsys, image, *options)


def test_bad_files_are_one_line_with_their_code(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    image.with_name("broken.nii").write_bytes(b"not an image")
    assert "[file.format]" in refusal(capsys, image.with_name("broken.nii"), "--point", *MIDDLE)
    assert "[file.missing]" in refusal(capsys, image.with_name("none.nii"), "--point", *MIDDLE)
    assert predict.main([str(image), "-o", str(image.with_name("mask.xyz")), "--point", *MIDDLE]) == 2
    assert "[file.format]" in capsys.readouterr().err


def test_initial_mask_of_another_grid_is_refused(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    path = image.with_name("start.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 5
    for array, affine in ((np.ones((60, 50, 40)), moved), (np.ones((60, 50, 41)), AFFINE)):
        nib.Nifti1Image(array.astype(np.uint8), affine).to_filename(path)
        assert "[prompt.invalid]" in refusal(capsys, image, "--initial-mask", path)


@pytest.mark.parametrize("inside", [0.9, np.nan])
def test_an_initial_mask_that_is_none_is_refused(
    image: Path, model: Ball, inside: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image.with_name("start.nii.gz")
    shares = np.full((60, 50, 40), 0.01, dtype=np.float32)
    shares[20:30, 20:30, 20:30] = inside
    nib.Nifti1Image(shares, AFFINE).to_filename(path)
    assert "[prompt.invalid]" in refusal(capsys, image, "--initial-mask", path)


def test_prompts_are_checked_before_the_model_is_loaded(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load_engine", lambda *_: pytest.fail("loaded for nothing"))
    refusal(capsys, image, "--point", 99, 0, 0)
    refusal(capsys, image, "--negative", *MIDDLE)


@pytest.mark.parametrize(
    "options",
    [["--point", "1", "2"], ["--point", "a", "b", "c"], ["--point", "1", "2", "-1.2.3e4"], ["--device", "abacus"]],
)
def test_unknown_options_are_argparses_to_refuse(image: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        predict.main([str(image), "-o", "mask.nii", *options])
    assert caught.value.code == 2


def test_auto_needs_nothing_but_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    phantom = torso((80, 60, 40), (4, 4, 7))
    path = tmp_path / "torso.nii.gz"
    nib.Nifti1Image(np.asarray(phantom.volume.array), phantom.volume.affine).to_filename(path)
    liver = phantom.labels == phantom.names.index("liver") + 1
    assert dice(run(path, "--point", *phantom.middle_of("liver")), liver) > 0.5
    out, err = capsys.readouterr()
    assert "by compact" in out
    assert not err


def test_warning_is_a_line_on_standard_error(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    voxels = np.asarray(nib.load(image).dataobj, dtype=np.float32)
    voxels[30, 25, 20] = np.nan
    nib.Nifti1Image(voxels, AFFINE).to_filename(image)
    run(image, "--point", *MIDDLE)
    assert "warning: 3 of 32768 voxels around the click are NaN" in capsys.readouterr().err


def test_command_in_a_process_of_its_own(image: Path) -> None:
    command = [sys.executable, "-m", "backend.predict", str(image), "--point", "99", "0", "0", "-o", "mask.nii"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stdout == ""
    assert "[prompt.invalid]" in done.stderr
    assert "Traceback" not in done.stderr


# The published results


@pytest.fixture(scope="session")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deterministic weights that the reference was computed with."""
    fill = runpy.run_path(str(shared / "reference" / "fill_rule.py"))["fill"]
    with torch.device("meta"):
        network = SamMed3D(VIT_B_ORI)
    shapes = {name: tuple(entry.shape) for name, entry in network.state_dict().items()}
    state = {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}
    network.load_state_dict(state, assign=True)
    path = tmp_path_factory.mktemp("weights") / "deterministic.safetensors"
    save_safetensors(network, path)
    return path


def published(reference: Any, name: str) -> tuple[Mask, list[int]]:
    shape = reference[f"{name}_mask_shape"]
    bits = np.unpackbits(reference[f"{name}_mask_bits"])[: np.prod(shape)]
    return bits.reshape(shape).astype(bool), reference[f"{name}_click"].tolist()


@pytest.mark.slow
def test_network_answers_as_published(shared: Path, weights: Path) -> None:
    """The masks agree less than the logits: random weights make them ragged, and published resampling is nearest."""
    reference = np.load(shared / "reference" / "preprocess.npz")
    engine = Engine(load_model(weights), torch.device("cpu"))
    for name in PUBLISHED:
        predictor = Predictor(engine, read_volume(shared / "data" / name / "image.nii.gz"))
        mask, (x, y, z) = published(reference, name)
        answers = make_solver(predictor, extend=False)
        (window,) = answers.final((Click((x, y, z)),)).windows
        expected = reference[f"{name}_low_res_logits"][0, 0]
        assert np.abs(window.logits - expected).max() < 1e-2 * np.abs(expected).max(), name
        assert dice(painted(answers, [Click((x, y, z))]), mask) > 0.88, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mr_fetal_brain_run3", "pet_sts_004"])
def test_command_answers_as_published(shared: Path, weights: Path, tmp_path: Path, name: str) -> None:
    image, output = shared / "data" / name / "image.nii.gz", tmp_path / "mask.nii.gz"
    expected, click = published(np.load(shared / "reference" / "preprocess.npz"), name)
    options = [str(image), "-o", str(output), "--model", str(weights), "--device", "cpu", "--no-extend"]
    assert predict.main([*options, "--point", *map(str, click)]) == 0
    written, given = nib.load(output), nib.load(image)
    np.testing.assert_array_equal(written.affine, given.affine)
    assert written.get_data_dtype() == np.uint8
    mask = np.asarray(written.dataobj) == 1
    assert dice(mask, expected) > 0.88
    answers = make_solver(Predictor(Engine(load_model(weights), torch.device("cpu")), read_volume(image)), extend=False)
    x, y, z = click
    np.testing.assert_array_equal(mask, painted(answers, [Click((x, y, z))]))


@pytest.mark.parametrize("name", ["mask.png", "nowhere/mask.nii.gz"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "read_volume", lambda *_: pytest.fail("read for nothing"))
    assert predict.main(["ct.nii.gz", "--point", "1", "2", "3", "-o", str(tmp_path / name)]) == 2
    assert name.split("/", maxsplit=1)[0] in capsys.readouterr().err


def test_the_input_is_never_replaced(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    before = image.read_bytes()
    assert predict.main([str(image), "--point", *MIDDLE, "-o", str(image)]) == 2
    assert "would replace" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_a_point_in_mm_outside_is_refused_in_mm(image: Path, model: Ball, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, image, "--point-mm", "900", "0", "0")
    assert "[900.0, 0.0, 0.0] mm is not in the image" in message
    assert "[30.0, 20.0, -70.0] mm" in message


def test_negative_numbers_in_scientific_notation(image: Path, model: Ball) -> None:
    x, y, z = apply_affine(AFFINE, [30.0, 25.0, 20.0]).tolist()
    plain = run(image, "--point-mm", x, y, z)
    assert np.array_equal(run(image, "--point-mm", f"{x:e}", f"{y:e}", f"{z:e}"), plain)
    assert min(x, y, z) < 0
