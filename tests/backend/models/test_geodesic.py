"""Distances from clicks along paths that avoid edges."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from backend.models.geodesic import (
    CELL,
    DISTANCE_MAPS,
    FAR,
    LEAST,
    MOST,
    QUIETEST,
    SAMPLED,
    _clicked,
    _distances,
    _usual,
    draw_distances,
    step_costs,
)
from backend.models.prompt_maps import looks_of

SIZE = 16


def two_rooms(noise: float = 0.05) -> Tensor:
    """Looks of two halves of other brightness, with a little noise."""
    torch.manual_seed(0)
    image = noise * torch.randn(1, 1, SIZE, SIZE, SIZE)
    image[:, :, SIZE // 2 :] += 2
    return looks_of(image)


def clicks(*points: tuple[int, int, int], labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor([points], dtype=torch.float32), torch.tensor([labels])


def test_a_step_over_an_edge_costs_more_than_one_over_noise() -> None:
    costs = step_costs(two_rooms())
    assert costs.shape == (1, 3, SIZE // CELL, SIZE // CELL, SIZE // CELL)
    edge = SIZE // CELL // 2 - 1
    assert costs[0, 0, edge].min() > 0.9 * MOST
    assert costs[0, 0, :edge].mean() < 0.5
    assert costs[0, 1, :, :-1].mean() < 0.5
    assert costs[:, :, :-1, :-1, :-1].min() >= LEAST


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_noise_alone_costs_the_same_however_strong(noise: float) -> None:
    torch.manual_seed(0)
    looks = torch.cat([noise * torch.randn(1, 1, SIZE, SIZE, SIZE)] * 2, dim=1)
    assert step_costs(looks)[:, :, :-1, :-1, :-1].mean() == pytest.approx(LEAST + 0.21, abs=0.02)


def test_what_lies_beyond_the_volume_does_not_count_as_quiet() -> None:
    """Most of the window is padding, where nothing differs."""
    looks = two_rooms(0.2)
    alone = step_costs(looks)
    padded = torch.zeros(1, 2, 3 * SIZE, 3 * SIZE, 3 * SIZE)
    padded[:, :, SIZE : 2 * SIZE, SIZE : 2 * SIZE, SIZE : 2 * SIZE] = looks
    cells = slice(SIZE // CELL, 2 * SIZE // CELL - 1)
    torch.testing.assert_close(
        step_costs(padded)[:, :, cells, cells, cells].mean(), alone[:, :, :-1, :-1, :-1].mean(), rtol=0.2, atol=0
    )


def test_an_image_of_one_brightness_costs_the_least() -> None:
    costs = step_costs(torch.ones(1, 2, SIZE, SIZE, SIZE))
    torch.testing.assert_close(costs[:, :, :-1, :-1, :-1], torch.full((1, 3, 7, 7, 7), LEAST))


def test_the_usual_difference_is_the_median_of_those_that_differ() -> None:
    torch.manual_seed(0)
    differences = torch.randn(3, 2, 7, 8, 9)
    differences[differences.abs() < 0.5] = 0
    differences[1, 0], differences[2, 1] = 0, 5 * QUIETEST
    sample = differences.flatten(2)[..., ::SAMPLED].abs()
    expected = sample.masked_fill(sample == 0, torch.nan).nanmedian(2).values.nan_to_num(0).clamp_min(QUIETEST)
    assert torch.equal(_usual(differences), expected)


def test_distances_are_dijkstras() -> None:
    torch.manual_seed(1)
    costs = 0.2 * torch.rand(1, 3, 5, 5, 5) + 1
    clicked = torch.zeros(1, 2, 5, 5, 5, dtype=torch.bool)
    clicked[0, 0, 1, 2, 3] = clicked[0, 0, 4, 4, 0] = clicked[0, 1, 0, 0, 0] = True
    index = np.arange(125).reshape(5, 5, 5)
    rows, columns, values = [], [], []
    for axis in range(3):
        rows.append(index.take(range(4), axis).ravel())
        columns.append(index.take(range(1, 5), axis).ravel())
        values.append(costs[0, axis].numpy().take(range(4), axis).ravel())
    graph = csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (125, 125))
    found = _distances(costs, clicked)
    for kind in range(2):
        seeds = index[clicked[0, kind].numpy()].ravel()
        expected = dijkstra(graph, directed=False, indices=seeds, min_only=True).reshape(5, 5, 5)
        near = expected < 6  # by five steps, as many as an axis has cells
        assert near.sum() > 50
        np.testing.assert_allclose(found[0, kind].numpy()[near], expected[near], rtol=1e-5)
        assert (found[0, kind].numpy() > expected - 1e-4).all()


def test_the_room_of_the_click_is_near_and_the_other_is_far() -> None:
    costs = step_costs(two_rooms())
    maps = draw_distances(costs, *clicks((3, 8, 8), (13, 8, 8), labels=[1, 0]))
    assert maps.shape == (1, DISTANCE_MAPS, SIZE // CELL, SIZE // CELL, SIZE // CELL)
    assert maps.abs().max() <= 1
    near_positive, side = maps[0, 1], maps[0, -1]
    assert near_positive[:4].min() > near_positive[4:].max()
    assert (side[:4] > 0).all()
    assert (side[4:] < 0).all()


def test_without_clicks_all_is_far() -> None:
    costs = step_costs(two_rooms())
    nothing = draw_distances(costs, torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))
    assert nothing[:, :-1].max() <= np.exp(-FAR / 8) + 1e-6
    assert not nothing[:, -1].any()
    assert torch.equal(draw_distances(costs, *clicks((3, 8, 8), labels=[-1])), nothing)


def test_a_click_marks_the_cell_it_lies_in() -> None:
    cells = _clicked(8, *clicks((3, 8, 15), (0, 0, 0), labels=[1, 0]))
    assert cells[0, 0].nonzero().tolist() == [[1, 4, 7]]
    assert cells[0, 1].nonzero().tolist() == [[0, 0, 0]]
