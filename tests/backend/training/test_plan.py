"""The plan of an epoch: exact windows, whatever the ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.training.plan import Plan

PLANS = {
    "length": st.integers(1, 60),
    "samples_per_step": st.integers(1, 20),
    "micro_batch": st.integers(1, 5),
    "ranks": st.integers(1, 7),
}


@given(**PLANS)
def test_ranks_together_see_the_mean_of_each_window(
    length: int, samples_per_step: int, micro_batch: int, ranks: int
) -> None:
    plans = [Plan(length, samples_per_step, micro_batch, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    seen: Counter[int] = Counter()
    windows = list(zip(*(plan.windows(epoch=2) for plan in plans), strict=True))
    assert len(windows) == plans[0].steps()
    for parts in windows:
        size = parts[0].size
        weights: Counter[int] = Counter()
        for part in parts:
            assert (part.size, part.end) == (size, parts[0].end)
            assert [one.last for one in part.passes] == [False] * (len(part.passes) - 1) + [True]
            for one in part.passes:
                assert 1 <= len(one.keys) <= micro_batch
                assert all(key.epoch == 2 for key in one.keys)
                # DistributedDataParallel divides by the number of ranks.
                weights.update({key.index: one.weight / ranks for key in one.keys})
        counted = {index: weight for index, weight in weights.items() if weight}
        assert len(counted) == size
        assert np.allclose(list(counted.values()), 1 / size)
        seen.update(counted.keys())
    assert seen == Counter(range(length))


@given(first=st.integers(1, 6), second=st.integers(1, 6), stop=st.integers(0, 10))
def test_going_on_with_other_ranks_misses_and_repeats_nothing(first: int, second: int, stop: int) -> None:
    def samples(ranks: int, position: int) -> list[list[int]]:
        plans = [Plan(43, 5, 2, seed=0, rank=rank, ranks=ranks) for rank in range(ranks)]
        return [
            [key.index for part in parts for one in part.passes if one.weight for key in one.keys]
            for parts in zip(*(plan.windows(0, position) for plan in plans), strict=True)
        ]

    before = samples(first, 0)[:stop]
    position = sum(map(len, before))
    after = samples(second, position)
    assert sorted(index for window in before + after for index in window) == list(range(43))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {
        (seed, epoch): tuple(Plan(30, samples, 1, seed).order(epoch))
        for samples in (7, 3)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 1] == tuple(Plan(30, 1, 1, seed=0, rank=2, ranks=3).order(1))


@pytest.mark.parametrize("rank", [1, 2])
def test_rank_without_a_share_comes_along_with_weight_zero(rank: int) -> None:
    (window,) = Plan(1, 4, 2, seed=0, rank=rank, ranks=3).windows(0)
    assert [(len(one.keys), one.weight, one.last) for one in window.passes] == [(1, 0.0, True)]
