import numpy as np
import torch
from torch import Tensor

from backend.models.region import CUT_RADIUS, Region

MODEL = Region()
NOTHING = torch.zeros(1, 1, 64, 64, 64)


def scene() -> Tensor:
    """Two bright cubes in the dark, one of them with a less bright half; as an embedding."""
    image = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    image[..., 8:24, 8:24, 8:24] += 3
    image[..., 40:56, 8:24, 8:24] += 3
    image[..., 40:56, 8:24, 24:40] += 2
    return image


def click(*cells: tuple[int, int, int]) -> Tensor:
    return torch.tensor(cells)[None] * 2.0 + 0.5


def decode(points: Tensor, labels: list[int], previous: Tensor = NOTHING) -> np.ndarray:
    logits: np.ndarray = MODEL.decode(scene(), points, torch.tensor([labels]), previous)[0, 0].numpy()
    return logits


def test_embedding_is_the_mean_of_each_cell() -> None:
    image = torch.arange(128**3, dtype=torch.float32).reshape(1, 1, 128, 128, 128)
    embedding = MODEL.embed(image)
    assert embedding.shape == (1, 1, 64, 64, 64)
    assert embedding[0, 0, 1, 2, 3] == image[0, 0, 2:4, 4:6, 6:8].mean()


def test_click_takes_what_is_connected_and_as_bright() -> None:
    expected = np.zeros((64, 64, 64), dtype=bool)
    expected[8:24, 8:24, 8:24] = True
    np.testing.assert_array_equal(decode(click((16, 16, 16)), [1]) > 0, expected)


def test_second_click_adds_and_negative_click_cuts_near_it() -> None:
    first = torch.from_numpy(decode(click((16, 16, 16)), [1]))[None, None]
    both = decode(click((48, 16, 16)), [1], first)
    assert both[16, 16, 16] > 0
    assert both[48, 16, 16] > 0
    assert both[48, 16, 30] < 0
    cut = decode(click((16, 16, 9)), [0], torch.from_numpy(both)[None, None])
    assert cut[16, 16, 9] < 0
    assert cut[16, 16, 9 + CUT_RADIUS] < 0 < cut[16, 16, 10 + CUT_RADIUS]
    assert cut[48, 16, 16] > 0


def test_clicked_cell_is_in_even_on_an_edge() -> None:
    for cell in ((8, 8, 8), (0, 0, 0), (63, 63, 63)):
        assert decode(click(cell), [1])[cell] > 0


def test_undecided_cells_stay_outside() -> None:
    """A window that follows an object sees zeros where nothing was decided; they must not spill at its edges."""
    previous = NOTHING.clone()
    previous[..., :32] = -4
    logits = decode(click((16, 16, 16)), [1], previous)
    assert logits[60, 60, 60] < -1
    np.testing.assert_array_equal(logits > 0, decode(click((16, 16, 16)), [1]) > 0)


def test_answer_is_the_callers_own() -> None:
    previous = torch.full((1, 1, 64, 64, 64), -4.0)
    decode(click((16, 16, 16)), [1], previous)
    assert (previous == -4).all()


def test_batch_is_answered_one_by_one() -> None:
    points = torch.cat([click((16, 16, 16)), click((48, 16, 16))])
    previous = torch.cat([NOTHING, torch.full_like(NOTHING, -1)])
    logits = MODEL.decode(scene().repeat(2, 1, 1, 1, 1), points, torch.ones(2, 1, dtype=torch.long), previous)
    np.testing.assert_array_equal(logits[0, 0], decode(points[:1], [1]))
    assert (logits[1, 0, :32] <= 0).all()
    assert logits[1, 0, 48, 16, 16] > 0
