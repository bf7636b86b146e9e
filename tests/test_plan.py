"""Plans of the per-sample convolution: found once for each set of arguments, and never for other ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from crossd_ops import _plan, crossd_conv2d, crossd_conv3d


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """No plan is known yet; the arguments of each one that is made."""
    calls: list[tuple[Any, ...]] = []
    original = _plan._make
    monkeypatch.setattr(_plan, "_plans", {})
    monkeypatch.setattr(_plan, "_make", lambda *arguments: calls.append(arguments) or original(*arguments))
    return calls


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 6, 5).to(dtype), torch.randn(6, 4, 3, 3, 3).to(dtype), torch.randn(2, 3).to(dtype)


def test_arguments_are_looked_at_once(made: list[tuple[Any, ...]]) -> None:
    first = crossd_conv2d(*tensors(), padding=1)
    assert crossd_conv2d(*tensors(), padding=1).shape == first.shape
    assert len(made) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 2},
        {"padding": (0, 1)},
        {"padding": "same"},
        {"dilation": 2},
        {"dim": 1},
        {"index": 0},
        {"bias": torch.zeros(6)},
    ],
    ids=str,
)
def test_other_arguments_have_a_plan_of_their_own(other: dict[str, Any], made: list[tuple[Any, ...]]) -> None:
    crossd_conv2d(*tensors())
    found = crossd_conv2d(*tensors(), **other)
    assert len(made) == 2
    _plan._plans.clear()
    assert crossd_conv2d(*tensors(), **other).shape == found.shape


def test_types_and_autocast_have_plans_of_their_own(made: list[tuple[Any, ...]]) -> None:
    assert crossd_conv2d(*tensors()).dtype is torch.float32
    assert crossd_conv2d(*tensors(torch.float64)).dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert crossd_conv2d(*tensors()).dtype is torch.bfloat16
    assert crossd_conv2d(*tensors()).dtype is torch.float32
    assert len(made) == 3


def test_two_and_three_axes_do_not_share_a_plan() -> None:
    _, weight, shift = tensors()
    crossd_conv3d(torch.randn(2, 4, 5, 5, 5), weight, shift)
    with pytest.raises(ValueError, match=r"input: expected \(B, C, H, W\), got \(2, 4, 5, 5, 5\)"):
        crossd_conv2d(torch.randn(2, 4, 5, 5, 5), weight, shift)


@pytest.mark.parametrize("name, value", [("stride", 1.0), ("groups", 1.0), ("dim", 0.0), ("index", 1.0)])
def test_what_only_equals_a_known_argument_is_refused(name: str, value: float) -> None:
    crossd_conv2d(*tensors(), **{name: int(value)})
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
        crossd_conv2d(*tensors(), **{name: value})


def test_an_error_comes_every_time() -> None:
    input, weight, shift = tensors()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shift: expected \(2, 3\), got \(1, 3\)"):
            crossd_conv2d(input, weight, shift[:1])
        with pytest.raises(TypeError, match="input: expected a Tensor, got list"):
            crossd_conv2d(input.tolist(), weight, shift)
    assert not _plan._plans


def test_a_list_of_numbers_has_no_hash_and_works() -> None:
    arguments = tensors()
    for _ in range(2):
        found = crossd_conv2d(*arguments, stride=[2, 1])
        torch.testing.assert_close(found, crossd_conv2d(*arguments, stride=(2, 1)))


def test_symbolic_sizes() -> None:
    def convolution(*arguments: Tensor) -> Tensor:
        return crossd_conv2d(*arguments, padding=1)

    traced = make_fx(convolution, tracing_mode="symbolic")(*tensors())
    arguments = tensors()
    torch.testing.assert_close(traced(*arguments), convolution(*arguments))


def test_there_are_never_more_plans_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plan, "_MOST_PLANS", 3)
    _, weight, shift = tensors()
    for pixels in range(4, 12):
        assert crossd_conv2d(torch.randn(2, 4, pixels, 5), weight, shift).shape == (2, 6, pixels - 2, 3)
        assert len(_plan._plans) <= 3
