"""Runs from the command line to the report, with segmenters that know the answer."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stand_ins import Broken, Killer, Marking, Scripted, cube, write_case

from backend import evaluate as command
from backend.errors import SamMed3DError
from backend.evaluation import runner, segmenters
from backend.evaluation.results import CaseResult, Row, Settings, load_result, save_result, stamp_of
from backend.evaluation.segmenters import Segmenter, SessionSegmenter, make_segmenter
from backend.evaluation.tables import challenge, differences, size_of, summary, timings
from backend.evaluation.targets import find_cases
from backend.phantom import torso

SHAPE = (20, 20, 20)
EMPTY = np.zeros(SHAPE, dtype=bool)
Made = Callable[..., Segmenter]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Cases a, b and c, each with the cube as "liver" (10 ml), c with an evil name for it."""
    image = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    for name, target in (("a", "liver"), ("b", "liver"), ("c", "<script>alert(1)</script>")):
        labels = cube().astype(np.uint8)
        write_case(tmp_path / "data" / name, image, labels, np.diag([2, 2, 2.5, 1]), {1: target}, subject=name)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Segmenter]:
    """The segmenters by name: they stand in for what would be loaded."""
    half = cube()
    half[10:] = False
    known: dict[str, Segmenter] = {
        "perfect": Scripted(cube()),
        "half": Scripted(half),
        "empty": Scripted(EMPTY),
        "broken": Broken(),
    }
    monkeypatch.setattr(runner, "make_segmenter", lambda spec, *_: known[spec])
    runner.segmenters.cache_clear()
    return known


def run(data: Path, *options: object) -> int:
    out = data.parent / "out"
    words = ["--data", data, "--out", out, *([] if "challenge" in options else ["--clicks", 1, 3]), *options]
    return command.main([str(word) for word in words])


def report(data: Path) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads((data.parent / "out" / "report.json").read_text())
    return content


def page(data: Path) -> str:
    return (data.parent / "out" / "report.html").read_text()


def test_values_reach_json_csv_and_page(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--model", "perfect", "--model", "half", "--repeats", 2) == 0
    with (data.parent / "out" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 2 * 2
    assert {float(line["dice"]) for line in lines if line["model"] == "perfect"} == {1.0}
    assert {float(line["dice"]) for line in lines if line["model"] == "half"} == {2 * 500 / 1500}
    assert set(lines[0]) == set(Row.model_fields)
    content = report(data)
    overall = [line for line in content["tables"] if line["by"] == "overall"]
    assert [(line["model"], line["clicks"]) for line in overall] == [
        ("perfect", 1),
        ("perfect", 3),
        ("half", 1),
        ("half", 3),
    ]
    assert overall[0]["dice"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "targets": 3, "subjects": 3}
    assert {line["by"] for line in content["tables"]} == {"overall", "structure", "modality", "seen", "size", "dataset"}
    assert content["differences"][0]["dice"]["mean"] == pytest.approx(2 / 3 - 1)
    assert len(content["rows"]) == len(lines)
    assert page(data).count("data:image/png;base64,") >= 4
    assert "<td>0.667 (0.667 to 0.667)</td>" in page(data)
    assert "Dice 1.000  NSD 1.000" in capsys.readouterr().out


def test_a_case_named_twice_is_measured_once(data: Path) -> None:
    assert run(data, "--model", "perfect", "--cases", "a", "a") == 0
    assert [row["case"] for row in report(data)["rows"]] == ["a", "a"]  # one line for each number of clicks


def test_names_are_text_on_the_page(data: Path) -> None:
    assert run(data, "--model", "empty") == 0
    assert "<script>" not in page(data)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page(data)
    assert "http" not in page(data)  # nothing is fetched


def test_failing_case_is_listed_and_costs_no_other(data: Path) -> None:
    (data / "b" / "image.nii.gz").write_bytes(b"not an image")
    assert run(data, "--model", "perfect") == 0
    content = report(data)
    assert [row["case"] for row in content["rows"]] == ["a", "a", "c", "c"]
    (failure,) = content["failures"]
    assert failure["case"] == "b"
    assert "[file." in str(failure["error"])
    assert "What could not be measured" in page(data)


def test_failing_model_costs_no_other(data: Path) -> None:
    assert run(data, "--model", "broken", "--model", "perfect") == 0
    content = report(data)
    assert {row["model"] for row in content["rows"]} == {"perfect"}
    assert {failure["model"] for failure in content["failures"]} == {"broken"}
    assert "ZeroDivisionError: no answer (stand_ins.py:" in str(content["failures"][0]["error"])


def test_run_without_any_value_fails(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--model", "broken") == 2
    assert "Nothing of the 3 cases" in capsys.readouterr().err
    assert len(report(data)["failures"]) == 3
    assert run(data, "--model", "perfect", "--min-volume-ml", 11) == 2
    assert "lower --min-volume-ml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], "config.invalid"),
        (["--model", "perfect", "--tolerance-mm", 0], "config.invalid"),
        (["--model", "perfect", "--tolerance-mm", "inf"], "config.invalid"),
        (["--model", "perfect", "--min-volume-ml", "nan"], "config.invalid"),
        (["--model", "perfect", "--seed", -1], "config.invalid"),
        (["--model", "perfect", "--cases", "z"], "data.source"),
        (["--model", "perfect", "--protocol", "challenge", "--repeats", 2], "config.invalid"),
        (["--model", "perfect", "--protocol", "challenge", "--clicks", 3], "config.invalid"),
    ],
)
def test_mistake_is_one_line(data: Path, options: list[object], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, *options) == 2
    err = capsys.readouterr().err
    assert f"[{code}]" in err
    assert err.count("\n") == 1


def test_auto_is_called_by_the_model_that_it_is(
    data: Path, made: dict[str, Segmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SAMED3D_CACHE", str(data))  # where no published weights are
    made["compact"], made["auto"] = made["half"], made["perfect"]
    assert run(data, "--model", "auto", "--model", "compact") == 0
    assert {row["model"] for row in report(data)["rows"]} == {"compact"}


def test_model_that_is_not_there_stops_the_run(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "make_segmenter", segmenters.make_segmenter)
    assert run(data, "--model", "missing.pth") == 2
    assert "[file.missing]" in capsys.readouterr().err
    assert not (data.parent / "out" / "report.json").exists()


def test_stopped_run_goes_on(
    data: Path, made: dict[str, Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perfect = made["perfect"]
    assert isinstance(perfect, Scripted)
    assert run(data, "--model", "perfect", "--limit", 2) == 0
    assert len(perfect.clicks) == 2
    assert run(data, "--model", "perfect") == 0
    assert len(perfect.clicks) == 3
    assert len(report(data)["rows"]) == 6
    assert run(data, "--model", "perfect", "--seed", 1) == 0  # other settings: all anew
    assert len(perfect.clicks) == 6
    (data / "a" / "label.nii.gz").touch()
    assert run(data, "--model", "perfect", "--seed", 1) == 0  # one file was written again
    assert len(perfect.clicks) == 7
    meta = data / "a" / "meta.json"
    meta.write_text(meta.read_text().replace("liver", "spleen"))
    assert run(data, "--model", "perfect", "--seed", 1) == 0  # it is called otherwise
    assert len(perfect.clicks) == 8
    assert {row["target"] for row in report(data)["rows"] if row["case"] == "a"} == {"spleen"}
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").touch()
    monkeypatch.setattr(runner, "SOURCE", tmp_path / "code")
    assert run(data, "--model", "perfect", "--seed", 1) == 0  # other code
    assert len(perfect.clicks) == 11


def test_any_name_of_a_case_has_a_file_and_times_say_of_how_many_processes(data: Path) -> None:
    (data / "a").rename(data / ("Krankenhaus " + "\u4e2d" * 70))
    assert run(data, "--model", "perfect", "--limit", 2) == 0
    results = [CaseResult.model_validate_json(file.read_text()) for file in (data.parent / "out" / "cases").iterdir()]
    assert len(results) == 2
    for result in results:
        save_result(data.parent / "out", result.model_copy(update={"jobs": 4}))
    assert run(data, "--model", "perfect") == 0
    assert report(data)["jobs"] == [1, 4]
    assert "1 or 4 process" in page(data)


def test_unreadable_result_is_measured_anew(data: Path) -> None:
    settings = Settings(models=("perfect",), clicks=(1,))
    (case, *_) = find_cases(data)
    out = data.parent / "out"
    stamp = stamp_of(settings, (*case.files, *runner._weights(settings), *runner.SOURCE.rglob("*.py")), case.known)
    list(runner.evaluate([case], settings, out))
    assert isinstance(load_result(out, "a", stamp), CaseResult)
    (out / "cases" / "a.json").write_text('{"stamp": "')
    assert load_result(out, "a", stamp) is None


def test_every_model_gets_the_same_first_click(data: Path, made: dict[str, Segmenter]) -> None:
    assert run(data, "--model", "empty", "--model", "half") == 0
    empty, half = made["empty"], made["half"]
    assert isinstance(empty, Scripted)
    assert isinstance(half, Scripted)
    assert empty.clicks[::3] == half.clicks[::3]
    assert empty.clicks[0] != empty.clicks[3]  # nor do two cases share theirs


def test_other_seeds_and_repeats_are_other_clicks(data: Path, made: dict[str, Segmenter]) -> None:
    perfect = made["perfect"]
    assert isinstance(perfect, Scripted)
    clicks = []
    for seed in (0, 1, 0):
        perfect.clicks.clear()
        out = data.parent / f"out{len(clicks)}"
        assert run(data, "--model", "perfect", "--cases", "a", "--repeats", 3, "--seed", seed, "--out", out) == 0
        clicks.append([point for point, _ in perfect.clicks])
    assert len(set(clicks[0] + clicks[1])) == 6
    assert clicks[2] == clicks[0]


def test_challenge_protocol_has_its_measures(data: Path) -> None:
    assert run(data, "--model", "half", "--protocol", "challenge") == 0
    content = report(data)
    assert [row["clicks"] for row in content["rows"]][:6] == [0, 1, 2, 3, 4, 5]
    (line,) = content["challenge"]
    assert line["dice_auc"]["mean"] == pytest.approx(4 * 2 / 3)
    assert line["dice_final"]["mean"] == pytest.approx(2 / 3)
    assert "challenge's measures" in page(data)


def row(**changes: object) -> Row:
    given = {
        "model": "m",
        "case": "a",
        "subject": "a",
        "dataset": "here",
        "modality": "CT",
        "target": "liver",
        "key": "1",
        "structure": "abdomen&thorax",
        "seen": True,
        "volume_ml": 10.0,
        "repeat": 0,
        "clicks": 1,
        "dice": 0.5,
        "nsd": 0.25,
        "seconds_first": 1.0,
        "seconds_next": None,
        "seconds_total": 1.0,
    }
    return Row.model_validate(given | changes)


def test_target_counts_once_whatever_its_repeats() -> None:
    rows = [row(dice=0.2, repeat=0), row(dice=0.4, repeat=1), row(dice=0.9, case="b", subject="b")]
    overall = summary(rows)[0]
    assert overall.dice.mean == pytest.approx((0.3 + 0.9) / 2)
    assert (overall.dice.targets, overall.dice.subjects) == (2, 2)


def test_groups_are_apart() -> None:
    rows = [row(), row(case="b", dice=1.0, modality="US", seen=False, structure="lesion", volume_ml=4.9)]
    found = {(line.by, line.group): line.dice.mean for line in summary(rows)}
    assert found["modality", "US"] == found["seen", "unseen"] == found["structure", "lesion"] == 1.0
    assert found["size", "1: < 5 ml"] == 1.0
    assert found["size", "2: 5 to 50 ml"] == 0.5
    assert found["overall", "all"] == 0.75


@pytest.mark.parametrize(("volume_ml", "group"), [(4.9, "1"), (5, "2"), (50, "3"), (499, "3"), (500, "4"), (2000, "4")])
def test_size_bins(volume_ml: float, group: str) -> None:
    assert size_of(row(volume_ml=volume_ml)).startswith(group)


def test_difference_is_of_targets_that_both_have() -> None:
    rows = [row(), row(case="b", dice=0.1), row(model="n", dice=0.8)]
    (found,) = differences(rows)
    assert (found.model, found.against, found.dice.targets) == ("n", "m", 1)
    assert found.dice.mean == pytest.approx(0.3)


def test_times_of_clicks_targets_and_volumes() -> None:
    last = {"clicks": 3, "seconds_next": 0.5, "seconds_total": 2.0}
    rows = [row(**last), row(**last, key="2"), row(**last | {"seconds_total": 6.0}, case="b"), row()]
    (found,) = timings(rows)
    assert (found.first_click, found.next_click, found.target, found.volume) == (1.0, 0.5, 2.0, 5.0)


def test_challenge_areas_leave_the_box_out() -> None:
    values = [0.9, 0.0, 0.5, 0.5, 0.75, 1.0]
    (found,) = challenge([row(clicks=clicks, dice=value) for clicks, value in enumerate(values)])
    assert found.dice_auc.mean == pytest.approx(2.25)
    assert found.dice_final.mean == 1.0


def test_threshold_is_the_region_model_through_a_session() -> None:
    phantom = torso((60, 45, 30), (5, 5, 9))
    liver = phantom.labels == phantom.names.index("liver") + 1
    segmenter = make_segmenter("threshold")
    segmenter.start(phantom.volume)
    mask = segmenter.click(phantom.middle_of("liver"), True)
    assert mask.shape == phantom.volume.shape
    assert 2 * (mask & liver).sum() / (mask.sum() + liver.sum()) > 0.6
    segmenter.start(phantom.volume)
    corner, opposite = np.argwhere(liver).min(axis=0), np.argwhere(liver).max(axis=0)
    assert segmenter.box(corner, opposite).any()


def test_untrained_network_is_seeded_and_unknown_ones_are_refused() -> None:
    phantom = torso((40, 30, 20), (8, 8, 14))
    masks = []
    for seed in (0, 0, 1):
        segmenter = make_segmenter("untrained:small", "cpu", seed=seed)
        assert isinstance(segmenter, SessionSegmenter)
        segmenter.start(phantom.volume)
        masks.append(segmenter.click((20, 15, 10), True))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    with pytest.raises(SamMed3DError, match="no network named 'large'"):
        make_segmenter("untrained:large")


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real models: stand-ins do not reach other processes."""
    monkeypatch.setattr(runner, "make_segmenter", segmenters.make_segmenter)
    phantom = torso((40, 30, 20), (8, 8, 14))
    for name in "abc":
        image, labels = np.asarray(phantom.volume.array), (phantom.labels == 4).astype(np.uint8)
        write_case(tmp_path / "data" / name, image, labels, phantom.volume.affine, {1: "liver"})
    (tmp_path / "data" / "b" / "label.nii.gz").write_bytes(b"")
    settings, cases = Settings(models=("threshold",), clicks=(1, 2)), find_cases(tmp_path / "data")
    one, two = (
        {result.case: result for result in runner.evaluate(cases, settings, tmp_path / f"out{jobs}", jobs)}
        for jobs in (1, 2)
    )
    assert {case: [r.dice for r in result.rows] for case, result in one.items()} == {
        case: [r.dice for r in result.rows] for case, result in two.items()
    }
    assert len(two["b"].failures) == 1
    assert len(two["a"].rows) == 2


@pytest.mark.slow
def test_what_is_left_is_not_done_when_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "make_segmenter", segmenters.make_segmenter)
    cases = [Marking(str(number), tmp_path / str(number)) for number in range(20)]
    results = runner.evaluate(cases, Settings(models=("threshold",), clicks=(1,)), tmp_path / "out", jobs=2)
    next(results)
    results.close()
    assert len(list(tmp_path.glob("[0-9]*"))) < 20


@pytest.mark.slow
def test_killed_process_costs_its_own_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "make_segmenter", segmenters.make_segmenter)
    phantom = torso((40, 30, 20), (8, 8, 14))
    image, labels = np.asarray(phantom.volume.array), (phantom.labels == 4).astype(np.uint8)
    write_case(tmp_path / "data" / "a", image, labels, phantom.volume.affine, {1: "liver"})
    cases = (Killer(), *find_cases(tmp_path / "data"))
    results = {
        result.case: result
        for result in runner.evaluate(cases, Settings(models=("threshold",), clicks=(1,)), tmp_path / "out", jobs=2)
    }
    assert "the process was killed" in results["killer"].failures[0].error
    assert len(results["a"].rows) == 1
