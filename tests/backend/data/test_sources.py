import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sources import case_folder, case_folders, labels, nnunet_folder, picture, write

from backend.data.cases import SourceCase, modality_of
from backend.data.jobs import Job, PreparationConfig
from backend.data.preparation import prepare_job
from backend.data.sources import read_cases, read_source
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning

SECOND = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        ("CT", "CT"),
        ("CT angiography (thorax, 1.5 mm)", "CT"),
        ("FDG-PET (SUV)", "PET"),
        ("PET/CT", "PET"),
        ("MR T1w", "MR"),
        ("FLAIR", "MR"),
        ("T1-weighted", "MR"),
        ("3D ultrasound", "US"),
        ("gradient echo MR", "MR"),
        ("Gradient-Echo", "other"),
        ("CBCT", "other"),
        ("rescale_to_0_1", "other"),
        ("", "other"),
    ],
)
def test_modalities_in_the_words_of_sources(text: str, modality: str) -> None:
    assert modality_of(text) == modality


def test_nnunet_of_the_second_format(tmp_path: Path) -> None:
    content = SECOND | {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}}
    nnunet_folder(tmp_path / "Dataset001_X", content, {"a_0000": picture(), "b_0000": picture()}, "a", "b")
    (tmp_path / "Dataset001_X" / "labelsTr" / "._a.nii.gz").write_text("of macOS")
    cases = read_source(tmp_path / "Dataset001_X").cases
    assert [(case.name, case.subject, case.dataset, case.modality, case.frame) for case in cases] == [
        ("a", "Dataset001_X/a", "Dataset001_X", "CT", None),
        ("b", "Dataset001_X/b", "Dataset001_X", "CT", None),
    ]
    assert cases[0].image.name == "a_0000.nii.gz"
    assert cases[0].targets({0, 1, 2, 3}) == {"core": (2,), "whole": (1, 2)}
    assert cases[0].targets({0, 1}) == {"core": (), "whole": (1,)}
    assert cases[0].unnamed({0, 1, 2, 3}) == {3}


def test_nnunet_of_the_first_format_with_frames(tmp_path: Path) -> None:
    """As the Decathlon's brain tumours: one 4-D file for all channels."""
    content = {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "edema"}}
    nnunet_folder(tmp_path / "Task01_BrainTumour", content, {"a": np.zeros((4, 4, 4, 2), np.int16)}, "a")
    cases = read_source(tmp_path).cases
    assert [(case.name, case.frame, case.modality, case.subject) for case in cases] == [
        ("a_0000", 0, "MR", "Task01_BrainTumour/a"),
        ("a_0001", 1, "MR", "Task01_BrainTumour/a"),
    ]
    assert cases[0].names == {1: "edema"}
    assert cases[0].unnamed({0, 1, 5}) == {5}


def test_nnunet_channels_are_images_of_their_own(tmp_path: Path) -> None:
    content = SECOND | {"channel_names": {"0": "CT", "1": "PET"}}
    images = {"case_0001_0000": picture(), "case_0001_0001": picture()}
    nnunet_folder(tmp_path, content, images, "case_0001")
    cases = read_source(tmp_path).cases
    assert [(case.name, case.modality, case.image.name) for case in cases] == [
        ("case_0001_0000", "CT", "case_0001_0000.nii.gz"),
        ("case_0001_0001", "PET", "case_0001_0001.nii.gz"),
    ]
    assert {case.subject for case in cases} == {f"{tmp_path.name}/case_0001"}
    assert {case.label.name for case in cases} == {"case_0001.nii.gz"}


def test_nnunet_lists_what_is_missing_so_that_it_is_set_aside(tmp_path: Path) -> None:
    nnunet_folder(tmp_path, SECOND, {"a_0000": picture(), "b_0000": picture()}, "b", "c")
    a, b, c = read_source(tmp_path).cases
    assert (a.name, a.label.exists(), a.label.name) == ("a", False, "a.nii.gz")
    assert b.image.exists()
    assert b.label.exists()
    assert (c.name, c.image.exists(), c.image.name) == ("c", False, "c_0000.nii.gz")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"labels": {}}',
        '{"labels": {"0": "background", "liver": 1}}',
        '{"labels": {"liver": "liver"}}',
        '{"labels": {"liver": 1.5}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_bad_dataset_json_is_named(tmp_path: Path, content: str) -> None:
    nnunet_folder(tmp_path, SECOND, {"a_0000": picture()}, "a")
    (tmp_path / "dataset.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SamMed3DError, match=r"dataset\.json") as caught:
        read_source(tmp_path)
    assert caught.value.code == ErrorCode.DATA_SOURCE


@pytest.mark.parametrize("level", ["", "liver", "liver/ct_AMOS"])
def test_the_published_layout_from_any_level(tmp_path: Path, level: str) -> None:
    for category in ("liver", "spleen"):
        folder = tmp_path / "root" / category / "ct_AMOS"
        for number in (1, 2):
            write(folder / "imagesTr" / f"amos_{number}.nii.gz", picture())
            write(folder / "labelsTr" / f"amos_{number}.nii.gz", (labels() == 1).astype(np.uint8) * 255)
    cases = read_source(tmp_path / "root" / level).cases
    assert {(case.dataset, case.name, case.subject) for case in cases} == {
        ("ct_AMOS", f"amos_{number}", f"ct_AMOS/amos_{number}") for number in (1, 2)
    }
    assert [case.targets({0, 255}) for case in cases[:2]] == [{"liver": (255,)}] * 2
    assert {target for case in cases for target in case.regions} == ({"liver"} if level else {"liver", "spleen"})
    assert {case.modality for case in cases} == {"other"}, "a path declares no modality"


def table_row(**changes: Any) -> dict[str, Any]:
    return {"image": "i/a.nii.gz", "label": "l/a.nii.gz", "modality": "ct", "dataset": "d"} | changes


def test_a_table_of_json_lines(tmp_path: Path) -> None:
    rows = [
        table_row(subject="p", labels={"1": "liver"}, note="of no concern"),
        table_row(image=str(tmp_path / "x" / "b.nrrd"), target="kidney", frame=2),
        table_row(modality=None),
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n\nnonsense\n")
    listing = read_source(table)
    first, second = listing.cases
    assert first == SourceCase(
        name="i/a", subject="p", dataset="d", modality="CT", image=tmp_path / "i/a.nii.gz",
        label=tmp_path / "l/a.nii.gz", names={1: "liver"},
    )  # fmt: skip
    assert second.image == tmp_path / "x" / "b.nrrd"
    assert second.frame == 2
    assert second.targets({0, 3, 7}) == {"kidney": (3, 7)}
    assert [(failure.case, failure.code) for failure in listing.failures] == [
        ("line 3", "data.source"),
        ("line 5", "data.source"),
    ]


def test_a_table_of_csv(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    names = '"{""1"": ""liver"", ""2"": ""liver""}"'
    table.write_text(
        "\ufeffimage,label,modality,dataset,labels,target\n"
        f"a.nii.gz,l.nii.gz,T1w,d,{names},\nb.nii.gz,l.nii.gz,US,d,,\nc.nii.gz,l.nii.gz,US,d,not json,\n",
        encoding="utf-8",
    )
    listing = read_source(table)
    first, second = listing.cases
    assert first.targets({0, 1, 2}) == {"liver": (1, 2)}
    assert first.modality == "MR"
    assert second.targets({0, 4, 9}) == {"label_4": (4,), "label_9": (9,)}
    assert second.unnamed({0, 4}) == set()
    assert "Line 4" in listing.failures[0].error


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"image,label,modality\na,b,c\n", "no column dataset"),
        ("t.csv", b"image,label,modality,dataset\n", "no rows"),
        ("t.csv", b"\xff\xfe\x00", "could not be read"),
        ("t.csv", b"image,label,modality,dataset\n" + b"x" * 200_000, "field larger"),
        ("t.jsonl", b"", "no rows"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SamMed3DError, match=said) as caught:
        read_source(tmp_path / name)
    assert caught.value.code == ErrorCode.DATA_SOURCE


def test_a_folder_of_cases(tmp_path: Path) -> None:
    root = case_folders(tmp_path / "demo", 2)
    case_folder(root / "plain")
    (root / "notes").mkdir()
    (root / "unlabelled").mkdir()
    (root / "unlabelled" / "image.nii.gz").write_text("x")
    cases = read_cases(root)
    assert [case.name for case in cases] == ["case_0", "case_1", "plain", "unlabelled"]
    assert cases[0].names == {1: "liver", 2: "spleen"}
    assert (cases[0].modality, cases[0].dataset, cases[0].subject) == ("CT", "demo", "demo/case_0")
    assert (cases[2].modality, cases[2].names) == ("other", None)
    assert not cases[3].label.exists()


@pytest.mark.parametrize("meta", ["{", '{"labels": {"x": "liver"}}', '{"labels": 3}', '{"subject": 7}', "[" * 99_999])
def test_a_bad_meta_json_sets_its_case_aside(tmp_path: Path, meta: str) -> None:
    root = case_folders(tmp_path / "demo", 2)
    (root / "case_1" / "meta.json").write_text(meta)
    listing = read_source(root)
    assert [case.name for case in listing.cases] == ["case_0"]
    assert [failure.case for failure in listing.failures] == ["case_1"]
    assert "meta.json" in listing.failures[0].error
    with pytest.warns(SamMed3DWarning, match="case_1 is set aside"):
        assert len(read_cases(root)) == 1


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SamMed3DError, match=path.name) as caught:
            read_source(path)
        assert caught.value.code == ErrorCode.DATA_SOURCE


def test_real_cases(shared: Path) -> None:
    cases = {case.name: case for case in read_cases(shared / "data")}
    assert len(cases) == 30
    assert cases["ct_ts_aorta_dissection"].modality == "CT"
    assert cases["pet_sts_004"].modality == "PET"
    assert cases["mr_ms_flair_p07"].names == {1: "brain_(nonzero_FLAIR)", 2: "MS_white_matter_lesion"}
    assert {case.modality for case in cases.values()} == {"CT", "MR", "PET"}


def test_a_linked_dataset_keeps_its_place(tmp_path: Path) -> None:
    """Its category is the folder in which the link lies."""
    real = tmp_path / "storage" / "amos"
    write(real / "imagesTr" / "a.nii.gz", picture())
    write(real / "labelsTr" / "a.nii.gz", labels())
    (tmp_path / "pub" / "liver").mkdir(parents=True)
    (tmp_path / "pub" / "liver" / "ct_AMOS").symlink_to(real)
    (case,) = read_source(tmp_path / "pub").cases
    assert (case.dataset, set(case.regions)) == ("ct_AMOS", {"liver"})


def test_paths_are_full_wherever_a_worker_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.jsonl").write_text(json.dumps(table_row()))
    monkeypatch.chdir(tmp_path)
    (case,) = read_source(Path("table.jsonl")).cases
    assert case.image.is_absolute()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="folders that cannot be read, as no administrator")
def test_a_folder_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    case_folder(tmp_path / "in" / "a")
    (tmp_path / "in" / "lost+found").mkdir(mode=0)
    listing = read_source(tmp_path / "in")
    assert [case.name for case in listing.cases] == ["a"]
    assert [failure.case for failure in listing.failures] == ["lost+found"]


def test_frames_and_spellings_of_one_image_are_one_subject(tmp_path: Path) -> None:
    rows = [table_row(frame=0), table_row(frame=1), table_row(image="./i/a.nii.gz", frame=2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cases = read_source(tmp_path / "t.jsonl").cases
    assert {case.subject for case in cases} == {"d/i/a"}
    assert [case.name for case in cases] == ["i/a_0", "i/a_1", "i/a_2"]


def test_rows_that_are_odd_but_right_and_rows_without_end(tmp_path: Path) -> None:
    text = json.dumps(table_row(subject="a\u2028b\u0085c"), ensure_ascii=False)
    (tmp_path / "t.jsonl").write_text(f"{text}\n{json.dumps(table_row(labels='[' * 100_000))}\n", encoding="utf-8")
    listing = read_source(tmp_path / "t.jsonl")
    assert [case.subject for case in listing.cases] == ["a\u2028b\u0085c"]
    assert [failure.case for failure in listing.failures] == ["line 2"]


def test_images_whose_names_merely_end_in_four_digits_are_cases_of_their_own(tmp_path: Path) -> None:
    nnunet_folder(tmp_path, SECOND, {"P_0002": picture(), "P_0003": picture()}, "P_0002")
    one, two = read_source(tmp_path).cases
    assert (one.name, one.image.name, one.label.exists()) == ("P_0002", "P_0002.nii.gz", True)
    assert (two.name, two.image.name, two.label.exists()) == ("P_0003", "P_0003.nii.gz", False)


def test_cases_beside_a_dataset_are_listed_and_half_written_ones_not(tmp_path: Path) -> None:
    nnunet_folder(tmp_path / "Dataset001_X", SECOND, {"a_0000": picture()}, "a")
    case_folder(tmp_path / "mine")
    case_folder(tmp_path / ".synthetic_000003")
    assert sorted(case.name for case in read_source(tmp_path).cases) == ["a", "mine"]


def test_a_name_that_no_file_system_has_sets_its_case_aside(tmp_path: Path) -> None:
    rows = [table_row(image=name) for name in ("x" * 300 + "/a.nii.gz", "a\0.nii.gz")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for case in read_source(tmp_path / "t.jsonl").cases:
        result = prepare_job(Job("d", case.name, (case,)), tmp_path / "out", PreparationConfig())
        assert len(result.failures) == 1


def test_a_folder_beside_datasets_that_cannot_be_read_is_no_concern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnunet_folder(tmp_path / "Dataset001_X", SECOND, {"a_0000": picture()}, "a")
    (tmp_path / "lost+found").mkdir()
    real = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert read_source(tmp_path).failures == ()
