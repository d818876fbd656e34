import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from small_sources import LOOSE, ball, case_folders, labels, picture, write

from backend.data.cases import SourceCase
from backend.data.cleaning import CleaningConfig
from backend.data.index import Modality
from backend.data.jobs import Job, JobResult, PreparationConfig, file_name
from backend.data.preparation import prepare_job
from backend.data.store import StoredArray
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import canonical_grid, extract_crop
from backend.io import read_volume

WHOLE = (slice(None), slice(None), slice(None))


def case(folder: Path, modality: Modality = "MR", name: str = "a", **changes: Any) -> SourceCase:
    files = {"image": folder / "image.nii.gz", "label": folder / "label.nii.gz"}
    return SourceCase(**({"name": name, "subject": "s", "dataset": "d", "modality": modality, **files} | changes))


def prepared(out: Path, *cases: SourceCase, cleaning: CleaningConfig = LOOSE, spacing: float = 1.5) -> JobResult:
    return prepare_job(Job("d", "a", cases), out, PreparationConfig(spacing=spacing, cleaning=cleaning))


def pair(folder: Path, image: npt.NDArray[Any], label: npt.NDArray[Any], affine: npt.ArrayLike | None = None) -> Path:
    write(folder / "image.nii.gz", image, affine=affine)
    write(folder / "label.nii.gz", label, affine=affine)
    return folder


def test_masks_and_image_are_stored_on_the_canonical_grid(tmp_path: Path) -> None:
    """Flipped and with 3 mm slices: against the published way of resampling, and SciPy for the mask."""
    affine = np.diag([-1.0, 1.2, 3.0, 1])
    source = pair(tmp_path / "in", picture((40, 30, 12)), labels((40, 30, 12)), affine)
    result = prepared(tmp_path / "out", case(source, names={1: "liver", 2: "spleen"}))
    assert result.failures == ()
    assert [entry.target for entry in result.entries] == ["liver", "spleen"]
    volume = read_volume(source / "image.nii.gz")
    grid = canonical_grid(volume, 1.5)
    label = np.asarray(read_volume(source / "label.nii.gz").array)
    at = np.moveaxis(grid.to_volume(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    for entry, value in zip(result.entries, (1, 2), strict=True):
        assert entry.shape == grid.shape == (26, 24, 24)
        np.testing.assert_allclose(entry.affine, grid.affine)
        assert entry.source_spacing == pytest.approx((1, 1.2, 3))
        image = StoredArray(tmp_path / "out" / entry.image)
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image[WHOLE], extract_crop(volume, grid, (0, 0, 0), grid.shape))
        mask = StoredArray(tmp_path / "out" / entry.mask)[WHOLE]
        share = ndimage.map_coordinates((label == value).astype(float), at, order=1, mode="nearest")
        assert (mask == (share >= 0.5))[abs(share - 0.5) > 1e-6].all()
        found = np.argwhere(mask)
        assert entry.box == (tuple(found.min(0)), tuple(found.max(0)))
        assert entry.volume_ml == pytest.approx(mask.sum() * 1.5**3 / 1000)
        assert entry.split == "train"
        assert (entry.pretrain, entry.finetune) == (True, True)


@pytest.mark.parametrize("modality", ["CT", "MR", "other"])
def test_ct_is_clamped_by_its_modality_and_never_by_its_path(tmp_path: Path, modality: Modality) -> None:
    source = pair(tmp_path / "ct_data" / "CT", picture(), labels())
    result = prepared(tmp_path / "out", case(source, modality))
    image = StoredArray(tmp_path / "out" / result.entries[0].image)[WHOLE]
    expected = (-1000, 1000) if modality == "CT" else (picture().min(), picture().max())
    assert (image.min(), image.max()) == expected


def test_left_and_right_are_told_in_every_orientation(tmp_path: Path) -> None:
    """RAS+ runs towards the patient's Right, however the voxels are stored."""
    shape = (40, 24, 20)
    label = (ball(shape, (9, 12, 10), 5) | ball(shape, (29, 12, 10), 7)).astype(np.uint8)
    upright = nib.Nifti1Image(label, np.diag([1.5, 1.5, 1.5, 1]))
    rng = np.random.default_rng(0)
    for number in range(12):
        turned = np.column_stack([rng.permutation(3), rng.choice([-1, 1], 3)])
        image = upright.as_reoriented(turned)
        folder = tmp_path / str(number)
        array = np.asarray(image.dataobj)
        pair(folder, picture(array.shape), array, image.affine)
        result = prepared(tmp_path / f"out{number}", case(folder, names={1: "kidney"}))
        sizes = {entry.target: entry.volume_ml for entry in result.entries}
        assert sizes.keys() == {"kidney_left", "kidney_right"}
        assert sizes["kidney_right"] == pytest.approx(ball(shape, (29, 12, 10), 7).sum() * 1.5**3 / 1000)
        centre = {entry.target: np.array(entry.affine) @ [*np.mean(entry.box, axis=0), 1] for entry in result.entries}
        assert centre["kidney_right"][0] == pytest.approx(29 * 1.5)
        assert centre["kidney_left"][0] == pytest.approx(9 * 1.5)


def test_files_of_one_volume_share_its_image_and_its_background(tmp_path: Path) -> None:
    """The published layout: copies of an image beside one binary mask each, none over 1 % by itself."""
    shape = (40, 40, 40)
    cases = []
    for number in range(5):
        label = np.zeros(shape, dtype=np.uint8)
        label[8 * number : 8 * number + 6, 2:8, 2:8] = 255
        folder = pair(tmp_path / str(number), picture(shape), label)
        cases.append(case(folder, names={}, regions={f"organ {number}": ()}))
    strict = LOOSE.model_copy(update={"max_background_share": 0.99})
    result = prepared(tmp_path / "out", *cases, cleaning=strict)
    assert len({entry.image for entry in result.entries}) == 1
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    assert [entry.target for entry in result.entries] == [f"organ {number}" for number in range(5)]
    alone = prepared(tmp_path / "alone", cases[0], cleaning=strict)
    assert alone.entries == ()
    assert [(said.step, said.kept) for said in alone.decisions] == [("background", False)]
    assert alone.decisions[0].number == pytest.approx(1 - 216 / 64000)


def test_other_images_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    cases = []
    for number in range(2):
        folder = pair(tmp_path / str(number), picture(seed=number), labels())
        cases.append(case(folder, names={1: f"organ {number}", 2: "twice"}))
    result = prepared(tmp_path / "out", *cases)
    assert len({entry.image for entry in result.entries}) == 2
    assert [entry.target for entry in result.entries] == ["organ 0", "twice", "organ 1"]
    assert [said.reason for said in result.decisions if not said.kept] == ["this volume has such a target already"]


def test_every_decision_is_told(tmp_path: Path) -> None:
    label = labels()
    label[19, 17, 15] = 7
    source = pair(tmp_path / "in", picture(), label)
    result = prepared(
        tmp_path / "out", case(source, names={1: "liver", 2: "spleen", 3: "absent"}), cleaning=CleaningConfig()
    )
    assert [(said.target, said.structure, said.step, said.kept) for said in result.decisions] == [
        ("label_7", "other", "labels", False),
        ("liver", "abdomen&thorax", "size", False),
        ("spleen", "abdomen&thorax", "size", False),
    ]
    assert not (tmp_path / "out" / "images").exists()


def test_what_is_gone_on_a_coarse_grid_is_dropped(tmp_path: Path) -> None:
    label = np.zeros((20, 18, 16), dtype=np.uint8)
    label[3, 3, 3] = 1
    result = prepared(tmp_path / "out", case(pair(tmp_path / "in", picture(), label)), spacing=6)
    assert result.entries == ()
    assert [(said.step, said.reason) for said in result.decisions] == [("grid", "nothing is left of it at 6 mm")]


BAD: Mapping[str, Any] = {
    "not on the grid": lambda: (labels(), np.diag([1.5, 1.5, 1.6, 1])),
    "shape": lambda: (labels((20, 18, 15)), np.diag([1.5, 1.5, 1.5, 1])),
    "whole numbers": lambda: (labels().astype(np.float32) / 2, np.diag([1.5, 1.5, 1.5, 1])),
    "nan": lambda: (np.full((20, 18, 16), np.nan, np.float32), np.diag([1.5, 1.5, 1.5, 1])),
    "run from -1": lambda: (labels().astype(np.int16) - 1, np.diag([1.5, 1.5, 1.5, 1])),
    "several frames": lambda: (np.zeros((20, 18, 16, 2), np.uint8), np.diag([1.5, 1.5, 1.5, 1])),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_labels_set_their_case_aside_and_no_other(tmp_path: Path, said: str) -> None:
    source = pair(tmp_path / "in", picture(), labels())
    array, affine = BAD[said]()
    bad = write(tmp_path / "in" / "bad.nii.gz", array, affine=affine)
    result = prepared(tmp_path / "out", case(source, label=bad), case(source))
    assert [failure.label for failure in result.failures] == [str(bad)]
    assert said in result.failures[0].error
    assert len(result.entries) == 2


def test_labels_as_floats_and_large_numbers_are_labels(tmp_path: Path) -> None:
    values = np.array([0, 3, 614_454_277], dtype=np.float64)[labels()]
    result = prepared(tmp_path / "out", case(pair(tmp_path / "in", picture(), values)))
    assert [entry.target for entry in result.entries] == ["label_3", "label_614454277"]


def test_a_bad_image_sets_all_of_its_cases_aside(tmp_path: Path) -> None:
    source = pair(tmp_path / "in", picture(), labels())
    content = (source / "image.nii.gz").read_bytes()
    (source / "image.nii.gz").write_bytes(content[:-200])
    result = prepared(tmp_path / "out", case(source), case(source, names={1: "x"}))
    assert len(result.failures) == 2
    assert "image.nii.gz" in result.failures[0].error


def test_an_unforeseen_failure_sets_its_case_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("out of the blue")

    monkeypatch.setattr("backend.data.preparation.read_labels", fail)
    result = prepared(tmp_path / "out", case(pair(tmp_path / "in", picture(), labels())))
    assert "ZeroDivisionError: out of the blue" in result.failures[0].error


@pytest.mark.parametrize("where", ["read_labels", "LabelMap", "too_empty", "store_volume"])
def test_want_of_memory_sets_a_case_aside_until_the_next_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"backend.data.preparation.{where}", fail)
    result = prepared(tmp_path / "out", case(pair(tmp_path / "in", picture(), labels())))
    assert [failure.code for failure in result.failures] == [ErrorCode.VOLUME_TOO_LARGE]
    assert (result.entries, result.decisions) == ((), ()) or where == "store_volume"


def test_voxels_so_large_that_no_grid_holds_them_set_the_case_aside(tmp_path: Path) -> None:
    """Micrometres taken for millimetres, say."""
    source = pair(tmp_path / "in", picture((24, 24, 24)), labels((24, 24, 24)), np.diag([900.0, 900, 900, 1]))
    result = prepared(tmp_path / "out", case(source))
    assert [failure.code for failure in result.failures] == [ErrorCode.VOLUME_TOO_LARGE]
    assert "MiB of memory" in result.failures[0].error
    assert result.entries == ()
    assert not [decision for decision in result.decisions if decision.kept]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="files that cannot be read, as no administrator")
def test_an_image_that_cannot_be_read_sets_its_cases_aside(tmp_path: Path) -> None:
    """Two, so that they are compared first."""
    cases = [case(pair(tmp_path / name, picture(), labels())) for name in "ab"]
    cases[0].image.chmod(0)
    result = prepared(tmp_path / "out", *cases)
    assert len(result.failures) == 1
    assert len(result.entries) == 2


def test_an_output_that_cannot_be_written_is_no_fault_of_the_case(tmp_path: Path) -> None:
    source = pair(tmp_path / "in", picture(), labels())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").write_text("in the way")
    with pytest.raises(SamMed3DError) as caught:
        prepared(tmp_path / "out", case(source))
    assert caught.value.code == ErrorCode.FILE_WRITE


def test_what_was_assumed_is_told(tmp_path: Path) -> None:
    source = pair(tmp_path / "in", picture(), labels())
    for file in source.iterdir():
        content = bytearray(gzip.decompress(file.read_bytes()))
        content[80:92] = bytes(12)  # pixdim of the three axes
        content[252:256] = bytes(4)  # qform_code and sform_code
        file.write_bytes(gzip.compress(content))
    result = prepared(tmp_path / "out", case(source))
    assert any("voxel size" in warning for warning in result.warnings)


def test_the_result_file_is_the_result(tmp_path: Path) -> None:
    root = case_folders(tmp_path / "demo", 1)
    job = Job("d", "a", (case(root / "case_0"),))
    config = PreparationConfig(cleaning=LOOSE)
    result = prepare_job(job, tmp_path / "out", config)
    assert JobResult.model_validate_json(job.result_file(tmp_path / "out").read_text()) == result
    assert result.digest == job.digest(config) != job.digest(PreparationConfig())


def test_different_names_give_different_files() -> None:
    names = [
        ("a", "b"),
        ("a.b", ""),
        ("A", "b"),
        ("a", "B"),
        ("a b", ""),
        ("a-b", ""),
        ("ä", "b"),
        ("ö", "b"),
        ("a/b", ""),
    ]
    files = {file_name(*parts) for parts in names}
    assert len(files) == len(names)
    assert all(set(file) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.") for file in files)
    assert len(file_name("x" * 1000, "y" * 1000, "z" * 1000)) < 255


def test_a_result_does_not_outlive_the_files_that_it_was_written_for(tmp_path: Path) -> None:
    """Else it would be taken for finished, with some files on another grid, once the settings are as before."""
    out = tmp_path / "out"
    source = case(pair(tmp_path / "in", picture(), labels()))
    result = prepared(out, source)
    (mask, *_) = {(out / entry.mask).parent for entry in result.entries}
    for file in mask.iterdir():
        file.unlink()
    mask.rmdir()
    mask.write_text("in the way")
    with pytest.raises(SamMed3DError):
        prepared(out, source, spacing=1.0)
    assert not list((out / "cases").iterdir())
