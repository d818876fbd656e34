from collections import defaultdict

import numpy as np
import pytest
from pydantic import ValidationError
from test_index import entry

from backend.data.split import SplitConfig, assign_splits


def entries() -> list:
    rng = np.random.default_rng(0)
    return [
        entry(
            f"e{number}",
            subject=f"s{rng.integers(200)}",
            dataset=("x", "y")[number % 5 == 0],
            modality=("CT", "MR", "US")[int(rng.choice(3, p=(0.5, 0.45, 0.05)))],
        )
        for number in range(1000)
    ]


def test_no_subject_is_in_two_splits_and_what_is_held_out_is() -> None:
    config = SplitConfig(share=0.2, datasets=("y",), modalities=("US",), seed=3)
    for given in (entries(), [one for one in entries() if one.dataset == "x"]):
        splits = defaultdict(set)
        for one in assign_splits(given, config):
            splits[one.subject].add(one.split)
            if one.dataset == "y" or one.modality == "US":
                assert one.split == "validation"
        assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validation"}


def test_the_share_is_of_subjects_and_more_data_moves_none() -> None:
    config = SplitConfig(share=0.2, modalities=())
    many = {one.subject: one.split for one in assign_splits(entries(), config)}
    few = {one.subject: one.split for one in assign_splits(entries()[::7][::-1], config)}
    assert 0.12 < np.mean([split == "validation" for split in many.values()]) < 0.28
    assert few.items() <= many.items()
    other = {one.subject: one.split for one in assign_splits(entries(), SplitConfig(share=0.2, modalities=(), seed=1))}
    assert other != many


@pytest.mark.parametrize(("share", "split"), [(0, "train"), (1, "validation")])
def test_none_or_all(share: float, split: str) -> None:
    assert {one.split for one in assign_splits(entries(), SplitConfig(share=share, modalities=()))} == {split}


def test_ultrasound_is_held_out_by_default() -> None:
    assert SplitConfig().modalities == ("US",)
    with pytest.raises(ValidationError):
        SplitConfig(share=1.1)
