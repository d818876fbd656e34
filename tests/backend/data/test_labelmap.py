"""Label values of any size and number."""

import numpy as np
import pytest

from backend.data.labelmap import LabelMap
from backend.volume import Volume


@pytest.mark.parametrize("with_background", [True, False])
def test_large_values_keep_their_own(with_background: bool) -> None:
    array = np.full((4, 4, 4), 0 if with_background else 1, np.uint32)
    array[1, 1, 1], array[2, 2, 2] = 70_000, 4_000_000_000
    labels = LabelMap(Volume(array, np.eye(4)))
    assert labels.values == {70_000, 4_000_000_000} | (set() if with_background else {1})
    for value in labels.values:
        target = labels.target("x", (value,))
        box = tuple(slice(start, start + n) for start, n in zip(target.start, target.mask.shape, strict=True))
        found = np.zeros(array.shape, dtype=bool)
        found[box] = target.mask
        np.testing.assert_array_equal(found, array == value)


def test_more_values_than_two_bytes_tell_apart() -> None:
    array = np.arange(42**3, dtype=np.uint32).reshape(42, 42, 42)
    labels = LabelMap(Volume(array, np.eye(4)))
    assert len(labels.values) == 42**3 - 1
    assert labels.covered([70_000]).sum() == 1
    assert labels.covered([70_000])[array == 70_000].all()
