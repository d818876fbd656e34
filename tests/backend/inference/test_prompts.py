import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.prompts import Box, Click, History, InitialMask, Prompt, check_order

POSITIVE, NEGATIVE = Click((1, 2, 3)), Click((3, 2, 1), positive=False)
BOX = Box((0, 0, 0), (2, 2, 2))
MASK = InitialMask(np.ones((3, 3, 3), dtype=bool))

prompts = st.sampled_from([POSITIVE, NEGATIVE, BOX, MASK])
actions = st.one_of(
    st.tuples(st.just("add"), prompts),
    st.tuples(st.just("remove"), st.integers(-1, 4)),
    st.tuples(st.just("edit"), st.lists(prompts, max_size=3).map(tuple)),
    st.tuples(st.sampled_from(["undo", "redo"])),
)


class Model:
    """What a history is, in the plainest way: what was, what is, and what was undone."""

    def __init__(self) -> None:
        self.past: list[tuple[Prompt, ...]] = []
        self.now: tuple[Prompt, ...] = ()
        self.future: list[tuple[Prompt, ...]] = []

    def edit(self, prompts: tuple[Prompt, ...]) -> bool:
        if prompts and prompts[0] is NEGATIVE:
            return False
        self.past.append(self.now)
        self.now, self.future = prompts, []
        return True

    def add(self, prompt: Prompt) -> bool:
        return self.edit((*self.now, prompt))

    def remove(self, index: int) -> bool:
        return 0 <= index < len(self.now) and self.edit(self.now[:index] + self.now[index + 1 :])

    def undo(self) -> bool:
        if self.past:
            self.future.append(self.now)
            self.now = self.past.pop()
        return True

    def redo(self) -> bool:
        if self.future:
            self.past.append(self.now)
            self.now = self.future.pop()
        return True


@settings(max_examples=300, deadline=None)
@given(st.lists(actions, max_size=30))
def test_history_does_what_the_plain_model_does(walk: list[tuple[object, ...]]) -> None:
    history, model = History(), Model()
    for name, *arguments in walk:
        done = getattr(model, str(name))(*arguments)
        try:
            getattr(history, str(name))(*arguments)
        except SamMed3DError:
            assert not done
        else:
            assert done
        assert history.prompts == model.now
        assert (history.can_undo, history.can_redo) == (bool(model.past), bool(model.future))


def test_first_negative_is_refused_however_it_comes_first() -> None:
    history = History()
    with pytest.raises(SamMed3DError, match="needs one positive") as caught:
        history.add(NEGATIVE)
    assert caught.value.code == ErrorCode.PROMPT_NEEDS_POSITIVE
    history.add(POSITIVE)
    history.add(NEGATIVE)
    with pytest.raises(SamMed3DError, match="needs one positive"):
        history.remove(0)
    assert history.prompts == (POSITIVE, NEGATIVE)


@pytest.mark.parametrize("first", [POSITIVE, BOX, MASK])
def test_negative_click_may_follow_anything(first: Prompt) -> None:
    check_order([first, NEGATIVE])


def test_removing_a_prompt_that_is_not_there_is_refused() -> None:
    history = History()
    history.add(POSITIVE)
    for index in (-1, 1):
        with pytest.raises(SamMed3DError) as caught:
            history.remove(index)
        assert caught.value.code == ErrorCode.PROMPT_INVALID


def test_an_initial_mask_is_a_copy_of_the_box_that_holds_it() -> None:
    mask = np.zeros((30, 40, 50), dtype=bool)
    mask[3:6, 7, 20:24] = True
    prompt, expected = InitialMask(mask), mask.copy()
    mask[:] = True
    np.testing.assert_array_equal(prompt.mask, expected)
    assert prompt.patch.mask.nbytes == 12
    assert prompt.shape == mask.shape
