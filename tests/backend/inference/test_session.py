from typing import Any

import numpy as np
import pytest
import torch
from fakes import Ball, dice, noise

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.engine import Engine
from backend.inference.loading import load_engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.interface import bytes_of
from backend.models.region import Region
from backend.phantom import Phantom, torso
from backend.volume import Volume


def session(volume: Volume | None = None, **options: bool) -> Session:
    return Session(Predictor(Engine(Ball(), torch.device("cpu")), volume or noise((80, 80, 80))), **options)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return torso()


def test_organs_of_the_phantom_one_click_each(phantom: Phantom) -> None:
    organs = Session(Predictor(Engine(Region().eval(), torch.device("cpu")), phantom.volume))
    least = {"liver": 0.9, "spleen": 0.85, "kidney_left": 0.8, "kidney_right": 0.8}  # the slices are 3.5 mm thick
    for name in least:
        organs.click(phantom.middle_of(name))
        patch = organs.segment()
        assert organs.labels[phantom.middle_of(name)] == organs.objects.current
        assert patch.mask.any()
        organs.accept()
    for label, name in enumerate(least, start=1):
        truth = phantom.labels == phantom.names.index(name) + 1
        assert dice(organs.labels == label, truth) > least[name], name


def test_clicks_add_and_take_away_and_undo_brings_back() -> None:
    some = session()
    some.click((40, 40, 40))
    some.segment()
    one = some.labels.copy()
    some.click((47, 40, 40))
    some.segment()
    two = some.labels.copy()
    some.click((47, 40, 40), positive=False)
    some.segment()
    assert two[47, 40, 40] == 1
    assert some.labels[47, 40, 40] == 0
    for expected in (two, one, np.zeros_like(one)):
        some.history.undo()
        some.segment()
        np.testing.assert_array_equal(some.labels, expected)
    some.history.redo()
    some.segment()
    np.testing.assert_array_equal(some.labels, one)


def test_accepted_objects_survive_and_are_opened_again() -> None:
    some = session()
    some.click((40, 40, 40))
    some.segment()
    assert some.accept() == 1
    before = some.labels == 1
    some.click((47, 40, 40))
    some.segment()
    np.testing.assert_array_equal(some.labels == 1, before)
    assert some.labels[47, 40, 40] == 2
    assert some.accept() == 2
    some.reopen(1)
    some.history.remove(0)
    some.segment()
    assert not (some.labels == 1).any()
    assert (some.labels == 2).any()


@pytest.mark.parametrize("point", [(80, 0, 0), (np.nan, 0, 0), (1, 2), None, "abc", (1, 2, "x"), (10**400, 0, 0)])
def test_refused_click_leaves_the_others(point: Any) -> None:
    some = session()
    some.click((40, 40, 40))
    for refused in (some.click, lambda p: some.box((1, 1, 1), p)):
        with pytest.raises(SamMed3DError) as caught:
            refused(point)
        assert caught.value.code == ErrorCode.PROMPT_INVALID
    assert len(some.history.prompts) == 1
    assert some.segment().mask.any()


@pytest.mark.parametrize(
    "point", [[40, 41, 42], np.array([40, 41, 42]), np.array([40, 41, 42], dtype=np.float32), (40.0, 41, 42)]
)
def test_click_is_any_three_numbers(point: Any) -> None:
    some = session()
    some.click(point)
    some.segment()
    assert some.labels[40, 41, 42] == 1


def test_box_and_mask() -> None:
    some = session(extend=False)
    some.box([30, 30, 30], [50, 50, 50])
    some.segment()
    assert some.labels[40, 40, 40] == 1
    some.accept()
    some.initial_mask(some.labels == 1)
    some.segment()
    some.click((20, 20, 20))
    some.segment()
    assert some.labels[20, 20, 20] == 2
    assert some.labels[40, 40, 40] == 1


def test_embeddings_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ball()
    predictor = Predictor(Engine(model, torch.device("cpu")), noise((40, 40, 40)))
    starts = [(x, 0, 0) for x in range(6)]
    monkeypatch.setattr("backend.inference.predictor.CACHED_BYTES", 4.5 * bytes_of(predictor.embedding(starts[0])))
    for start in starts[1:-1]:
        predictor.embedding(start)
    assert [predictor.has_embedding(start) for start in starts[:3]] == [False, True, True]
    predictor.embedding(starts[1])  # used again, so the next to go is another
    predictor.embedding(starts[-1])
    assert [predictor.has_embedding(start) for start in starts[:3]] == [False, True, False]
    assert model.embedded == len(starts)


def test_what_changed_since_it_was_segmented_is_not_accepted() -> None:
    some = session()
    some.click((40, 40, 40))
    some.segment()
    some.history.undo()
    with pytest.raises(SamMed3DError, match="segment"):
        some.accept()
    some.history.redo()
    assert some.accept() == 1
    some.reopen(1)
    assert some.accept() == 1


def test_probabilities_are_no_initial_mask() -> None:
    with pytest.raises(SamMed3DError, match="float32"):
        session().initial_mask(np.full((80, 80, 80), 0.5, dtype=np.float32))


def test_what_was_painted_into_the_open_object_goes_with_its_next_answer() -> None:
    some = session()
    some.click((40, 40, 40))
    some.segment()
    answer = some.labels.copy()
    some.labels[:3, :3, :3] = 1
    some.objects.painted = True
    some.segment()
    np.testing.assert_array_equal(some.labels, answer)


@pytest.mark.parametrize("name", ["liver", "kidney_left"])
def test_the_shipped_model_corrects_a_mask_that_it_is_given(phantom: Phantom, name: str) -> None:
    """A bump that does not belong to it is clicked away, and the rest stays."""
    truth = phantom.labels == phantom.names.index(name) + 1
    at = np.moveaxis(np.indices(truth.shape), 0, -1) * phantom.volume.spacing
    bump = np.linalg.norm(at - at[truth][0], axis=-1) < 12  # around the first voxel, which lies at the border
    outside = np.argwhere(bump & ~truth)
    point = outside[np.linalg.norm((outside - outside.mean(0)) * phantom.volume.spacing, axis=1).argmin()]
    organs = Session(Predictor(load_engine("compact", "cpu"), phantom.volume))
    organs.initial_mask(truth | bump)
    organs.segment()
    before = organs.labels == 1
    organs.click(point, positive=False)
    organs.segment()
    after = organs.labels == 1
    assert not after[tuple(point)]
    assert dice(after, truth) > dice(before, truth)
    assert dice(after, truth) > 0.93
