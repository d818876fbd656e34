"""Cases of the challenge: read safely, answered on their own grid."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import challenge as command
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.challenge_case import read_challenge
from backend.evaluation.safe_npz import RefusedPickle, plain, read_npz, safe_loads
from backend.inference.prompts import Box, Click
from backend.phantom import torso

PHANTOM = torso((80, 60, 40), (4, 4, 7))
IMAGE = np.clip((np.asarray(PHANTOM.volume.array).T + 1000) / 1500 * 255, 0, 255).astype(np.uint8)  # (z, y, x)
SPACING = (4.0, 4.0, 7.0)


def zyx(organ: str) -> list[int]:
    return list(PHANTOM.middle_of(organ)[::-1])


def box_of(organ: str) -> dict[str, Any]:
    """As the challenge writes it: NumPy's numbers in a dictionary."""
    z, y, x = np.nonzero(PHANTOM.names.index(organ) + 1 == PHANTOM.labels.T)
    return {
        "z_min": z.min(),
        "z_max": z.max(),
        "z_mid": z[len(z) // 2],
        "z_mid_y_min": y.min(),
        "z_mid_y_max": y.max(),
        "z_mid_x_min": x.min(),
        "z_mid_x_max": x.max(),
    }


def clicks_of(fg: list[list[int]], bg: list[list[int]]) -> dict[str, list[list[np.int64]]]:
    return {kind: [[np.int64(i) for i in point] for point in points] for kind, points in (("fg", fg), ("bg", bg))}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


def save(inputs: Path, name: str = "case", **content: Any) -> Path:
    path = inputs / f"{name}.npz"
    np.savez_compressed(path, **({"imgs": IMAGE, "spacing": np.array(SPACING)} | content))
    return path


def answer(inputs: Path, name: str = "case") -> np.ndarray:
    with np.load(inputs.parent / "outputs" / f"{name}.npz") as content:
        assert list(content) == ["segs"]
        segs: np.ndarray = content["segs"]
    return segs


def run(inputs: Path, *options: str) -> int:
    return command.main([str(inputs), str(inputs.parent / "outputs"), "--model", "region", *options])


def overlap(mask: np.ndarray, organ: str) -> float:
    truth = PHANTOM.names.index(organ) + 1 == PHANTOM.labels.T
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_all_classes_are_answered_where_they_are(inputs: Path) -> None:
    save(inputs, boxes=[box_of("lung_right"), box_of("lung_left")])
    assert run(inputs) == 0
    segs = answer(inputs)
    assert segs.shape == IMAGE.shape
    assert segs.dtype == np.uint8
    assert overlap(segs == 1, "lung_right") > 0.8
    assert overlap(segs == 2, "lung_left") > 0.8


def test_prompts_are_read_in_their_order_and_place(inputs: Path) -> None:
    clicks = [clicks_of([[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]), clicks_of([[3, 2, 1]], [])]
    order = np.empty(2, dtype=object)
    order[:] = [["fg", "bg", "fg"], ["fg"]]
    case = read_challenge(save(inputs, boxes=[box_of("liver")], clicks=clicks, clicks_order=order))
    box, first, second, third = case.prompts[0]
    assert isinstance(box, Box)
    np.testing.assert_array_equal(box.corner, np.argwhere(PHANTOM.labels == 4).min(axis=0))
    np.testing.assert_array_equal(box.opposite, np.argwhere(PHANTOM.labels == 4).max(axis=0))
    assert (first, second, third) == (Click((3, 2, 1)), Click((9, 8, 7), False), Click((6, 5, 4)))
    assert case.prompts[1] == (Click((1, 2, 3)),)
    np.testing.assert_array_equal(case.volume.array, IMAGE.T)


def test_order_as_an_array_of_text_and_without_any(inputs: Path) -> None:
    """With as many clicks for each class NumPy makes an array of text of the lists."""
    clicks = [clicks_of([[1, 2, 3]], [[7, 8, 9]])] * 2
    case = read_challenge(save(inputs, clicks=clicks, clicks_order=[["fg", "bg"], ["fg", "bg"]]))
    plainly = read_challenge(save(inputs, "plain", clicks=clicks))
    assert case.prompts == plainly.prompts == ((Click((3, 2, 1)), Click((9, 8, 7), False)),) * 2


@pytest.mark.parametrize(("order", "expected"), [("xyz", (0.5, 1.5, 4.0)), ("zyx", (4.0, 1.5, 0.5))])
def test_spacing_is_in_the_order_that_is_told(inputs: Path, order: Any, expected: tuple[float, ...]) -> None:
    path = save(inputs, spacing=np.array([0.5, 1.5, 4.0]), boxes=[box_of("liver")])
    assert read_challenge(path, order).volume.spacing == expected


def test_smaller_object_is_on_top(inputs: Path) -> None:
    """The same clicks for two classes, then a background click that makes the second smaller."""
    point = zyx("liver")
    aside = [point[0], point[1], point[2] + 6]
    save(inputs, clicks=[clicks_of([point], []), clicks_of([point], [aside])])
    assert run(inputs) == 0
    segs = answer(inputs)
    assert (segs == 2).any()
    assert segs[tuple(aside)] == 1
    assert segs[tuple(point)] in (1, 2)


def test_class_that_begins_with_background_goes_on_from_the_last_answer(inputs: Path) -> None:
    previous = np.where(PHANTOM.labels.T == 4, 1, 0).astype(np.uint8)
    point = zyx("liver")
    save(inputs, clicks=[clicks_of([], [point]), clicks_of([], [point])], prev_pred=previous)
    assert run(inputs) == 0
    segs = answer(inputs)
    assert segs[tuple(point)] == 0
    assert 0 < (segs == 1).sum() < previous.sum()
    assert not (segs == 2).any()  # nothing to begin with


def test_without_a_last_answer_the_first_click_on_the_object_begins_it(inputs: Path) -> None:
    point = zyx("liver")
    aside = [point[0], point[1], point[2] + 6]
    save(inputs, clicks=[clicks_of([point], [aside])], clicks_order=[["bg", "fg"]])
    save(inputs, "other", clicks=[clicks_of([point], [aside])], clicks_order=[["fg", "bg"]])
    assert run(inputs) == 0
    assert answer(inputs).any()
    np.testing.assert_array_equal(answer(inputs), answer(inputs, "other"))


@pytest.mark.filterwarnings("ignore:A prompt of class:backend.errors.SamMed3DWarning")
def test_a_click_outside_leaves_the_others(inputs: Path) -> None:
    point = zyx("liver")
    save(inputs, clicks=[clicks_of([point], [[999, 0, 0]])])
    save(inputs, "other", clicks=[clicks_of([point], [])])
    assert run(inputs) == 0
    assert answer(inputs).any()
    np.testing.assert_array_equal(answer(inputs), answer(inputs, "other"))


def test_a_defect_costs_no_other_case(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        save(inputs, name, boxes=[box_of("liver")])

    def fails_once(*args: Any) -> Any:
        monkeypatch.setattr(command, "segment_case", real)
        raise MemoryError("no more")

    real = command.segment_case
    monkeypatch.setattr(command, "segment_case", fails_once)
    assert run(inputs) == 2
    assert [path.name for path in (inputs.parent / "outputs").iterdir()] == ["b.npz"]
    assert "a.npz: MemoryError: no more (test_challenge.py:" in capsys.readouterr().err


def test_bad_case_costs_no_other(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(inputs, "a", boxes=[box_of("liver")])
    (inputs / "._a.npz").write_bytes(b"what macOS leaves")
    (inputs / "b.npz").write_bytes(b"nothing")
    save(inputs, "c", boxes=[{"z_min": 1}])
    save(inputs, "d", clicks=[clicks_of([[99, 0, 0]], [])])
    save(inputs, "e", boxes=[box_of("liver")])
    assert run(inputs) == 2
    assert sorted(path.name for path in (inputs.parent / "outputs").iterdir()) == ["a.npz", "d.npz", "e.npz"]
    err = capsys.readouterr().err
    assert err.count("\n") == 4
    assert "2 of 5 cases were not answered: b.npz, c.npz" in err
    assert "[file.corrupt]" in err
    assert "[file.format]" in err
    assert "warning: A prompt of class 1 is left out" in err


@pytest.mark.parametrize(
    "content",
    [
        {"imgs": np.zeros((4, 4), np.uint8)},
        {"spacing": np.ones(2)},
        {"spacing": np.zeros(3)},
        {"imgs": np.zeros((4, 4, 4), complex)},
        {"prev_pred": np.zeros((2, 2, 2), np.uint8)},
        {"clicks": [{"fg": [[1, 2]], "bg": []}]},
        {"clicks": [{"fg": [["a", "b", "c"]], "bg": []}]},
        {"clicks": [{"fg": []}]},
        {"clicks": [{"fg": [[1, 2, 3]], "bg": []}], "clicks_order": [["bg"]]},
        {"clicks": np.array(3)},
        {"boxes": [5]},
    ],
)
def test_case_that_makes_no_sense_is_refused_by_name(inputs: Path, content: dict[str, Any]) -> None:
    with pytest.raises(SamMed3DError, match=r"case\.npz"):
        read_challenge(save(inputs, **content))


def test_case_without_image_is_refused(inputs: Path) -> None:
    np.savez(inputs / "case.npz", gts=IMAGE)
    with pytest.raises(SamMed3DError, match="no imgs and no spacing"):
        read_challenge(inputs / "case.npz")


@pytest.mark.parametrize("command_line", [["none", "outputs"], ["inputs", "inputs"]])
def test_folders_that_do_not_do(inputs: Path, command_line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    save(inputs)
    before = (inputs / "case.npz").read_bytes()
    words = [str(inputs.parent / word) for word in command_line]
    assert command.main([*words, "--model", "region"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (inputs / "case.npz").read_bytes() == before


class Payload:
    """Runs a command where it is unpickled in the usual way."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self._reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("key", ["boxes", "clicks", "clicks_order", "prev_pred", "imgs"])
@pytest.mark.parametrize("call", [os.system, eval, getattr, np.load, np.array])
def test_code_in_a_case_is_not_run(inputs: Path, tmp_path: Path, key: str, call: Any) -> None:
    canary = tmp_path / "canary"
    argument = f"touch {canary}" if call is os.system else f"open({str(canary)!r}, 'w')"
    array = np.empty(1, dtype=object)
    array[0] = Payload(call, argument)
    path = save(inputs, **{key: array})
    with pytest.raises(SamMed3DError, match="nothing was run") as caught:
        read_challenge(path)
    assert caught.value.code == ErrorCode.FILE_FORMAT
    assert not canary.exists()


def test_payload_would_have_run(tmp_path: Path) -> None:
    """The canary of the test above is one that can sing."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(os.system, f"touch {canary}")))
    assert canary.exists()


def test_pickle_in_an_array_that_is_not_looked_at_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    array = np.empty(1, dtype=object)
    array[0] = Payload(os.system, f"touch {tmp_path / 'canary'}")
    assert read_challenge(save(inputs, text_prompts=array, boxes=[box_of("liver")])).prompts
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        {"fg": [[np.int64(1), np.int32(2), 3]], "bg": []},
        [np.float32(0.5), np.bool_(True), np.str_("fg"), None, "text", -1],
        np.array([[{"a": 1}, None]], dtype=object),
    ],
)
def test_plain_values_come_through(value: Any, protocol: int) -> None:
    expected = value.tolist() if isinstance(value, np.ndarray) else value
    assert plain(safe_loads(pickle.dumps(value, protocol))) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04]r\xff\xff\xff\x7f.",  # remembered as number 2147483647
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00a.",  # bytes that are not there
        pickle.dumps(np.array([1, 2], dtype=">i4")),
        pickle.dumps(np.asfortranarray(np.array([[1, 2], [3, 4]], dtype=object))),
        pickle.dumps(np.zeros(2, dtype="datetime64[s]")),
        pickle.dumps(np.empty((10**6, 0), dtype=object)),
        pickle.dumps({1, 2}.__class__),
    ],
)
def test_other_pickles_are_refused(content: bytes) -> None:
    with pytest.raises((RefusedPickle, pickle.UnpicklingError, ValueError)):
        safe_loads(content)


def test_values_nested_without_end_are_refused() -> None:
    nested: list[Any] = [0]
    for _ in range(40):
        nested = [nested, nested]
    with pytest.raises(RefusedPickle, match="more than"):
        plain(nested)


def test_header_that_lies_costs_no_memory(inputs: Path) -> None:
    """An array of 8 GB in 200 bytes."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 1000, 1000), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    with zipfile.ZipFile(inputs / "case.npz", "w") as archive:
        archive.writestr("imgs.npy", content)
    with pytest.raises(SamMed3DError) as caught:
        read_npz(inputs / "case.npz", ["imgs"])
    assert caught.value.code == ErrorCode.FILE_TRUNCATED


def test_flipped_bit_is_found(inputs: Path) -> None:
    path = inputs / "case.npz"
    np.savez(path, imgs=IMAGE, spacing=np.array(SPACING))
    content = bytearray(path.read_bytes())
    content[IMAGE.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SamMed3DError) as caught:
        read_npz(path, ["imgs"])
    assert caught.value.code == ErrorCode.FILE_CORRUPT
