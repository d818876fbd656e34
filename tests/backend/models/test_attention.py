"""The closed form of window attention equals the published, padded form."""

import pytest
import torch
from padded import PaddedAttention
from torch import Tensor

from backend.models.attention import WindowAttention, cut_windows

WIDTH, HEADS = 12, 2


def make(kind: type[WindowAttention], window: int, magnitude: float) -> WindowAttention:
    layer = kind(WIDTH, HEADS, window).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            scale = magnitude if "rel_pos" in name else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def tokens(grid: tuple[int, int, int], seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *grid, WIDTH), generator=generator, dtype=torch.float64)


def run(kind: type[WindowAttention], grid: tuple[int, int, int], window: int, magnitude: float) -> dict[str, Tensor]:
    """Return the output and the gradients of input and parameters, under a random weighting of the output."""
    layer, x = make(kind, window, magnitude), tokens(grid, seed=5).requires_grad_()
    y = layer(x)
    y.backward(tokens(grid, seed=6))
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": y.detach(), "input": x.grad, **gradients}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


GRIDS = [
    pytest.param((8, 8, 8), 14, id="published"),
    pytest.param((4, 4, 4), 14, id="small"),
    pytest.param((3, 5, 4), 6, id="non-cubic"),
    pytest.param((6, 6, 2), 6, id="padded along w alone"),
    pytest.param((6, 2, 6), 6, id="padded along h alone"),
    pytest.param((2, 6, 6), 6, id="padded along d alone"),
    pytest.param((9, 7, 4), 4, id="windows with non-cubic remainders"),
    pytest.param((10, 10, 10), 7, id="windows with cubic remainders"),
    pytest.param((5, 5, 5), 5, id="full window"),
    pytest.param((8, 8, 8), 4, id="full windows"),
]


@pytest.mark.parametrize("magnitude", [0.2, 50.0], ids=["realistic", "large"])
@pytest.mark.parametrize(("grid", "window"), GRIDS)
def test_closed_form_equals_padded_form(grid: tuple[int, int, int], window: int, magnitude: float) -> None:
    ours = run(WindowAttention, grid, window, magnitude)
    for name, expected in run(PaddedAttention, grid, window, magnitude).items():
        assert relative_error(ours[name], expected) < 1e-12, name


def test_closed_form_equals_padded_form_beyond_the_published_size() -> None:
    """A grid of 20 tokens an axis is cut into windows of 14 and 6."""
    x = tokens((20, 20, 20), seed=5, batch=1)
    with torch.no_grad():
        expected = make(PaddedAttention, 14, 0.2)(x)
        assert relative_error(make(WindowAttention, 14, 0.2)(x), expected) < 1e-12


@pytest.mark.parametrize("grid", [(3, 3, 3), (3, 1, 2), (1, 1, 1)])
def test_huge_biases_do_not_overflow(grid: tuple[int, int, int]) -> None:
    """Biases of thousands, whose exponentials no float64 holds, saturate the softmax and no more."""
    ours, oracle = run(WindowAttention, grid, 3, 3000.0), run(PaddedAttention, grid, 3, 3000.0)
    assert relative_error(ours["output"], oracle["output"]) < 1e-9
    assert all(torch.isfinite(value).all() for value in ours.values())


def test_padding_counts() -> None:
    """The same tokens in a larger window come out otherwise: the padding is attended to."""
    x = tokens((3, 3, 3), seed=5)
    larger, exact = make(WindowAttention, 4, 0.0), make(WindowAttention, 3, 0.0)
    parameters = {name: value for name, value in exact.state_dict().items() if "rel_pos" not in name}
    larger.load_state_dict(parameters, strict=False)
    assert relative_error(larger(x), exact(x)) > 1e-2


def test_windows_cover_the_grid_once() -> None:
    count = torch.zeros(9, 7, 4)
    for window in cut_windows((9, 7, 4), 4):
        count[window] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close(dtype: torch.dtype) -> None:
    layer = make(WindowAttention, 14, 0.2).float()
    x = torch.randn(1, 8, 8, 8, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        y.float().square().sum().backward()
    assert y.dtype == dtype
    assert relative_error(y.float(), layer(x)) < 0.03
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())
