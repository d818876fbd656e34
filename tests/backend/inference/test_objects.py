import numpy as np
import pytest

from backend.errors import ErrorCode, SamMed3DError
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.inference.objects import LabelMap
from backend.inference.prompts import Click, InitialMask


def cube(first: int, size: int = 4) -> MaskPatch:
    return MaskPatch((first,) * 3, np.ones((size,) * 3, dtype=bool))


def two_objects() -> LabelMap:
    """Object 1 at 0 to 3, object 2 at 2 to 5 as far as 1 lets it, both accepted; 3 is open."""
    objects = LabelMap((12, 12, 12))
    for first in (0, 2):
        objects.history.add(Click((first, first, first)))
        objects.show(cube(first))
        objects.settle()
        objects.accept()
    return objects


def count(objects: LabelMap, label: int) -> int:
    return int(np.count_nonzero(objects.array == label))


def test_objects_get_one_label_each_and_overwrite_none() -> None:
    objects = two_objects()
    assert (objects.current, objects.labels) == (3, (1, 2, 3))
    assert (count(objects, 1), count(objects, 2)) == (64, 64 - 8)
    assert objects.array.dtype == np.uint16


def test_a_new_mask_replaces_the_old_one_of_the_open_object() -> None:
    objects = two_objects()
    objects.show(cube(5))
    objects.show(cube(8))
    assert count(objects, 3) == 64
    assert objects.array[9, 9, 9] == 3
    assert objects.array[6, 6, 6] == 0
    assert objects.array[5, 5, 5] == 2
    objects.show(EMPTY_PATCH)
    assert count(objects, 3) == 0
    assert (count(objects, 1), count(objects, 2)) == (64, 56)


def test_mask_is_not_filled_with_its_box() -> None:
    objects = LabelMap((12, 12, 12))
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 2, 0] = True
    objects.show(MaskPatch((4, 5, 6), mask))
    assert np.argwhere(objects.array).tolist() == [[5, 7, 6]]


def test_accepted_object_is_opened_again_with_its_prompts() -> None:
    objects = two_objects()
    objects.reopen(1)
    assert (objects.current, objects.labels) == (1, (1, 2))  # nothing was begun of 3
    assert objects.history.prompts == (Click((0, 0, 0)),)
    objects.show(cube(1))
    assert (count(objects, 1), count(objects, 2)) == (64 - (27 - 8), 56)
    objects.settle()
    assert objects.accept() == 1
    assert objects.current == 3
    assert not objects.history.prompts


def test_looking_at_one_object_after_the_other_changes_none() -> None:
    objects = two_objects()
    objects.show(cube(8))
    objects.history.add(Click((9, 9, 9)))  # not answered yet
    before = objects.array.copy()
    for label in (1, 2, 3, 1, 3):
        objects.reopen(label)
        assert (objects.current, objects.labels) == (label, (1, 2, 3))
        assert objects.answered == (label != 3)
    assert np.array_equal(objects.array, before)
    assert objects.history.prompts == (Click((9, 9, 9)),)
    objects.reopen(2)
    assert objects.history.prompts == (Click((2, 2, 2)),)
    assert objects.accept() == 2
    assert objects.current == 4


def test_half_an_answer_is_not_accepted() -> None:
    objects = two_objects()
    objects.reopen(2)
    objects.show(cube(4))  # more of it follows
    with pytest.raises(SamMed3DError, match="not segmented yet"):
        objects.accept()
    objects.settle()
    assert objects.accept() == 2


def test_paint_on_an_object_goes_with_its_next_answer_also_after_it_was_accepted() -> None:
    objects = LabelMap((12, 12, 12))
    objects.show(cube(0))
    paint(objects, (11, 0, 0), 1)
    objects.accept()
    paint(objects, (11, 1, 1), 1)
    objects.reopen(1)
    objects.show(cube(4))
    assert count(objects, 1) == 64
    assert not objects.array[11].any()


def test_an_object_that_was_only_painted_is_accepted() -> None:
    objects = LabelMap((12, 12, 12))
    objects.array[5, 5, 5], objects.painted = 1, True
    assert objects.accept() == 1
    assert (objects.labels, objects.current) == ((1, 2), 2)


def test_a_new_object_takes_no_label_that_was_painted_by_hand() -> None:
    objects = LabelMap((12, 12, 12))
    paint(objects, (9, 9, 9), 5)
    objects.history.add(Click((1, 1, 1)))
    objects.show(cube(0))
    objects.settle()
    objects.accept()
    assert objects.current == 6
    objects.show(cube(4))
    assert objects.array[9, 9, 9] == 5


def test_reopening_the_open_object_changes_nothing() -> None:
    objects = two_objects()
    objects.show(cube(8))
    objects.reopen(3)
    assert (objects.current, count(objects, 3)) == (3, 64)


def test_what_cannot_be_is_refused() -> None:
    objects = LabelMap((12, 12, 12))
    with pytest.raises(SamMed3DError, match="no voxels") as caught:
        objects.accept()
    assert caught.value.code == ErrorCode.SESSION_STATE
    with pytest.raises(SamMed3DError, match="no object 2") as caught:
        objects.reopen(2)
    assert caught.value.code == ErrorCode.SESSION_STATE
    objects.show(cube(0))
    objects.accept()
    objects.show(cube(0))  # all of it is object 1's
    with pytest.raises(SamMed3DError, match="no voxels"):
        objects.accept()


def test_labels_end() -> None:
    objects = LabelMap((4, 4, 4))
    objects.current = 65_535
    objects.show(cube(0))
    with pytest.raises(SamMed3DError, match="65535 labels"):
        objects.accept()
    assert objects.current == 65_535


def paint(objects: LabelMap, voxel: tuple[int, int, int], label: int) -> None:
    """As a person in the Labels layer."""
    objects.array[voxel] = label
    objects.painted = True


@pytest.mark.parametrize(("voxel", "label"), [((11, 0, 0), 3), ((9, 9, 9), 0)], ids=["added", "erased"])
def test_paint_is_kept_as_a_prompt_and_once(voxel: tuple[int, int, int], label: int) -> None:
    objects = two_objects()
    objects.history.add(Click((8, 8, 8)))
    objects.show(cube(8))
    objects.settle()
    paint(objects, voxel, label)
    for _ in range(2):
        objects.keep_paint()
        objects.keep_paint()  # asked again before the answer came
        click, kept = objects.history.prompts
        assert click == Click((8, 8, 8))
        assert isinstance(kept, InitialMask)
        np.testing.assert_array_equal(kept.mask, objects.array == 3)
        assert objects.answered
        objects.show(kept.patch)  # its answer
        objects.settle()
    objects.history.undo()
    assert objects.history.prompts == (click,)


def test_what_was_not_painted_is_no_prompt() -> None:
    objects = two_objects()
    objects.painted = True  # somewhere
    objects.reopen(1)
    objects.show(cube(0, 2))
    objects.settle()
    objects.reopen(2)  # a part of its box was the first one's
    objects.keep_paint()
    assert len(objects.history.prompts) == 1
    objects.array[objects.array == 2] = 0  # all erased
    objects.keep_paint()
    assert len(objects.history.prompts) == 1


def test_paint_that_a_viewer_takes_back_or_brings_again_without_a_word_is_seen() -> None:
    objects = LabelMap((12, 12, 12))
    paint(objects, (11, 0, 0), 1)
    for _ in range(2):
        objects.show(cube(4))
        objects.settle()
        assert count(objects, 1) == 64
        objects.array[11, 0, 0] = 1  # redo
    objects.show(EMPTY_PATCH)
    assert not objects.array.any()
    assert not objects.begun


def test_paint_comes_before_clicks_that_are_not_answered() -> None:
    objects = LabelMap((12, 12, 12))
    first, second = Click((2, 2, 2)), Click((3, 3, 3))
    objects.history.add(first)
    objects.settle()
    objects.history.add(second)
    paint(objects, (5, 5, 5), 1)
    objects.keep_paint()
    answered, kept, waiting = objects.history.prompts
    assert (answered, waiting) == (first, second)
    assert isinstance(kept, InitialMask)
    assert not objects.answered
    objects.history.remove(2)
    assert objects.answered
