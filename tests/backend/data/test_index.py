from pathlib import Path

import pytest

from backend.data.index import IndexEntry, read_index, write_index
from backend.errors import ErrorCode, SamMed3DError


def entry(name: str, **changes: object) -> IndexEntry:
    fields = {
        "id": name,
        "image": "images/a.b2nd",
        "mask": f"masks/{name}.b2nd",
        "case": "a",
        "subject": "s",
        "dataset": "d",
        "modality": "CT",
        "target": "liver",
        "structure": "abdomen&thorax",
        "spacing": 1.5,
        "source_spacing": (1.0, 1.0, 3.0),
        "affine": ((1.5, 0, 0, 0), (0, 1.5, 0, 0), (0, 0, 1.5, 0), (0, 0, 0, 1)),
        "shape": (10, 11, 12),
        "box": ((1, 2, 3), (4, 5, 6)),
        "volume_ml": 1.25,
        "pretrain": True,
        "finetune": False,
        "split": "train",
    }
    return IndexEntry.model_validate(fields | changes)


def test_what_is_written_is_read_in_the_order_of_ids(tmp_path: Path) -> None:
    write_index(tmp_path, [entry("b"), entry("a"), entry("ä", subject="Jörg\u2028")])
    assert [one.id for one in read_index(tmp_path)] == ["a", "b", "ä"]
    assert read_index(tmp_path)[1] == entry("b")
    assert read_index(tmp_path)[2].subject == "Jörg\u2028"


@pytest.mark.parametrize("spoiled", ["{", "", '{"id": "x"}', entry("a").model_dump_json().replace('"CT"', '"XR"')])
def test_a_bad_line_is_named(tmp_path: Path, spoiled: str) -> None:
    (tmp_path / "index.jsonl").write_text(f"{entry('a').model_dump_json()}\n{spoiled}\n{entry('b').model_dump_json()}")
    with pytest.raises(SamMed3DError, match=r"Line 2 of .*index\.jsonl") as caught:
        read_index(tmp_path)
    assert caught.value.code == ErrorCode.DATA_INDEX


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").write_text(f"{entry('a').model_dump_json()}\n" * 2)
    with pytest.raises(SamMed3DError, match="a is there twice"):
        read_index(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamMed3DError, match=r"backend\.prepare") as caught:
        read_index(tmp_path)
    assert caught.value.code == ErrorCode.DATA_INDEX
