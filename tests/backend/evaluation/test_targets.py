"""Targets of folders of cases and of prepared data."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from stand_ins import cube, write_case

from backend.data.index import IndexEntry, write_index
from backend.data.store import write_array
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.targets import Target, choose_cases, choose_targets, find_cases, rng_of

AFFINE = np.diag([-2.0, 2, 2.5, 1])
SHAPE = (20, 20, 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases: one with a liver (1000 voxels of 10 mm^3) and a breast tumour (8 voxels), one with a spleen."""
    image = np.zeros(SHAPE, dtype=np.int16)
    two = cube().astype(np.uint8)
    two[0:2, 0:2, 0:2] = 2
    write_case(tmp_path / "data" / "a", image, two, AFFINE, {1: "liver", 2: "breast tumor"}, subject="x")
    write_case(tmp_path / "data" / "b", image, cube().astype(np.uint8), AFFINE, {1: "spleen"}, modality="MR T1w")
    return tmp_path / "data"


def entry(**changes: object) -> IndexEntry:
    given = {
        "id": "a-liver",
        "image": "a.b2nd",
        "mask": "a-liver.b2nd",
        "case": "a",
        "subject": "x",
        "dataset": "here",
        "modality": "CT",
        "target": "liver",
        "structure": "abdomen&thorax",
        "spacing": 1.5,
        "source_spacing": (1, 1, 1),
        "affine": np.diag([1.5, 1.5, 1.5, 1]).tolist(),
        "shape": SHAPE,
        "box": ((5, 5, 5), (14, 14, 14)),
        "volume_ml": 3.375,
        "pretrain": False,
        "finetune": False,
        "split": "validation",
    }
    return IndexEntry.model_validate(given | changes)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A volume with a held-out liver and kidney, and one to train on."""
    out = tmp_path / "prepared"
    out.mkdir()
    for name, array in (
        ("a", np.arange(8000).reshape(SHAPE).astype(np.int16)),
        ("a-liver", cube().astype(np.uint8)),
        ("a-kidney", cube(start=2, stop=4).astype(np.uint8)),
    ):
        write_array(out / f"{name}.b2nd", array)
    kidney = entry(id="a-kidney", mask="a-kidney.b2nd", target="kidney_left", volume_ml=0.027)
    train = entry(id="c-liver", image="c.b2nd", mask="c-liver.b2nd", case="c", split="train")
    write_index(out, [entry(), kidney, train])
    return out


def test_each_label_of_a_case_is_a_target(folder: Path) -> None:
    case, _ = find_cases(folder)
    opened = case.open()
    liver, tumour = sorted(opened.targets, key=lambda target: -target.volume_ml)
    assert (liver.case, liver.subject, liver.modality, liver.name) == ("a", "x", "CT", "liver")
    assert (liver.structure, liver.seen, liver.volume_ml) == ("abdomen&thorax", True, pytest.approx(10.0))
    assert (tumour.structure, tumour.seen, tumour.volume_ml) == ("unseen lesion", False, pytest.approx(0.08))
    np.testing.assert_array_equal(opened.mask(liver), cube())
    assert opened.mask(tumour).sum() == 8
    np.testing.assert_allclose(opened.volume.affine, AFFINE)


def test_label_map_of_another_grid_is_refused(folder: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 9
    nib.Nifti1Image(np.ones(SHAPE, np.uint8), moved).to_filename(folder / "a" / "label.nii.gz")
    with pytest.raises(SamMed3DError, match=r"label.nii.gz are not on the grid") as caught:
        find_cases(folder)[0].open()
    assert caught.value.code == ErrorCode.DATA_SOURCE


def test_index_gives_one_case_a_volume_of_the_split(prepared: Path) -> None:
    (case,) = find_cases(prepared)
    assert case.name == "here/a"
    opened = case.open()
    assert [target.name for target in opened.targets] == ["kidney_left", "liver"]
    np.testing.assert_array_equal(opened.mask(opened.targets[1]), cube())
    assert opened.volume.array[1, 0, 0] == 400
    assert opened.volume.spacing == (1.5, 1.5, 1.5)
    assert len(find_cases(prepared / "index.jsonl", "all")) == 2


def test_volumes_of_an_index_with_one_name_get_different_ones(prepared: Path) -> None:
    """One that came in several files, which differ in a byte."""
    write_index(prepared, [entry(), entry(id="a-kidney", image="a.1.b2nd", mask="a-kidney.b2nd", target="kidney")])
    cases = find_cases(prepared)
    assert len(choose_cases(cases, [], None)) == 2
    assert [case.name for case in cases] == ["a.1.b2nd/here/a", "a.b2nd/here/a"]


@pytest.mark.parametrize("value", [-1, 0.7, np.nan])
def test_what_is_no_label_map_is_refused(folder: Path, value: float) -> None:
    labels = np.zeros(SHAPE, np.float32)
    labels[0, 0, 0] = value
    nib.Nifti1Image(labels, AFFINE).to_filename(folder / "a" / "label.nii.gz")
    with pytest.raises(SamMed3DError, match="not whole numbers from 0"):
        find_cases(folder)[0].open()


def test_labels_that_their_file_scales_are_whole_again(folder: Path) -> None:
    """NiBabel writes real numbers in a byte with a factor: 7 labels come back as 0.9882, 2.0039, ..."""
    labels = np.zeros(SHAPE)
    labels[5:15, 5:15, 5:15] = np.arange(1000).reshape(10, 10, 10) % 8
    image = nib.Nifti1Image(labels, AFFINE)
    image.set_data_dtype(np.uint8)
    image.to_filename(folder / "a" / "label.nii.gz")
    assert not (image.from_filename(folder / "a" / "label.nii.gz").get_fdata() == labels).all()
    opened = find_cases(folder)[0].open()
    liver = next(target for target in opened.targets if target.name == "liver")
    np.testing.assert_array_equal(opened.mask(liver), labels == 1)


def test_index_without_the_split_is_refused(prepared: Path) -> None:
    write_index(prepared, [entry(split="train")])
    with pytest.raises(SamMed3DError, match="no entry of the split 'validation'"):
        find_cases(prepared)


def test_damaged_mask_is_an_error_of_its_case(prepared: Path) -> None:
    (prepared / "a-liver.b2nd").write_bytes(b"nothing")
    opened = find_cases(prepared)[0].open()
    with pytest.raises(SamMed3DError) as caught:
        opened.mask(opened.targets[1])
    assert caught.value.code == ErrorCode.DATA_CORRUPT


def test_cases_with_one_name_get_different_ones(tmp_path: Path) -> None:
    """The published layout has a folder a category, with the same image in each."""
    for category in ("liver", "spleen"):
        for kind, array in (("images", np.zeros(SHAPE, np.int16)), ("labels", cube().astype(np.uint8))):
            path = tmp_path / category / "ct_X" / f"{kind}Tr"
            path.mkdir(parents=True)
            nib.Nifti1Image(array, AFFINE).to_filename(path / "s1.nii.gz")
    names = [case.name for case in find_cases(tmp_path)]
    assert len(set(names)) == 2
    assert all(name.endswith("s1") for name in names)


def test_rows_of_a_table_with_one_image_are_cases_of_their_own(tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE).to_filename(tmp_path / "scan.nii.gz")
    rows = ["image,label,modality,dataset"]
    for name in ("liver", "spleen", "liver"):
        nib.Nifti1Image(cube().astype(np.uint8), AFFINE).to_filename(tmp_path / f"{name}.nii.gz")
        rows.append(f"scan.nii.gz,{name}.nii.gz,CT,D")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    cases = find_cases(tmp_path / "table.csv")
    assert len(choose_cases(cases, [], None)) == 3
    assert "spleen" in cases[1].name


def test_choosing_cases(folder: Path) -> None:
    cases = find_cases(folder)
    assert [case.name for case in choose_cases(cases, [], 1)] == ["a"]
    assert [case.name for case in choose_cases(cases, ["b"], None)] == ["b"]
    with pytest.raises(SamMed3DError, match="There is no case z"):
        choose_cases(cases, ["z"], None)


def target(key: str, volume_ml: float) -> Target:
    return Target("a", "x", "here", "CT", key, "other", False, key, volume_ml)


def test_choosing_targets_is_seeded_and_keeps_the_order() -> None:
    targets = [target(str(i), 2.0 + i) for i in range(30)]
    names = [t.key for t in choose_targets(targets, 3.0, 5, seed=0)]
    assert names == [t.key for t in choose_targets(targets, 3.0, 5, seed=0)]
    assert names != [t.key for t in choose_targets(targets, 3.0, 5, seed=1)]
    assert len(names) == 5
    assert "0" not in names
    assert [int(name) for name in names] == sorted(map(int, names))
    assert list(choose_targets(targets, 0, None, seed=0)) == targets


def test_random_numbers_depend_on_every_name() -> None:
    draws = {tuple(rng_of(*names).integers(0, 1000, 3)) for names in ((0, "a", "b"), (1, "a", "b"), (0, "ab", ""))}
    assert len(draws) == 3
    assert rng_of(0, "a").random() == rng_of(0, "a").random()
