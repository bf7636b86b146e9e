"""to_crossd: the convolutions that it refuses, with their names and the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from crossd_ops import CrossDConv2d, to_crossd


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OtherConvolution(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.abs(), bias)


class Scaled(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(1))


def _instance_forward() -> nn.Module:
    module = nn.Conv2d(3, 4, 3)
    module.forward = lambda input: input  # type: ignore[method-assign]
    return module


def _weight_norm_by_hook() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Conv2d(3, 4, 3))


REFUSED: list[tuple[Callable[[], nn.Module], type[Exception], str]] = [
    (lambda: nn.LazyConv2d(4, 3), TypeError, "expected a weight, got a lazy LazyConv2d"),
    (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), ValueError, "got one that is computed"),
    (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), ValueError, "got one that is computed"),
    (_weight_norm_by_hook, ValueError, "got one that is computed"),
    (lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), ValueError, "got one that is computed"),
    (lambda: Doubled(3, 4, 3), TypeError, "got Doubled, which overrides it"),
    (lambda: OtherConvolution(3, 4, 3), TypeError, "got OtherConvolution, which overrides it"),
    (_instance_forward, TypeError, "expected the forward of Conv2d, got one set on the module"),
    (Scaled, ValueError, "expected weight and bias alone, got scale too"),
    (lambda: nn.Conv2d(3, 4, 3, dtype=torch.complex64), TypeError, "real floating-point numbers, got torch.complex64"),
]


@pytest.mark.parametrize("build, error, text", REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused_by_name(build: Callable[[], nn.Module], error: type[Exception], text: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), build())
    before = {name: value.clone() for name, value in model[1].state_dict().items() if not nn.parameter.is_lazy(value)}
    with pytest.raises(error, match=rf"^1: .*{text}"):
        to_crossd(model)
    for name, value in before.items():
        torch.testing.assert_close(model[1].state_dict()[name], value)


def test_what_is_refused_can_be_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), Doubled(3, 3, 3))
    converted: Any = to_crossd(model, where="0")
    assert isinstance(converted[0], CrossDConv2d)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(images), model(images))


def test_tied_parameters_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"^1\.weight: expected a parameter of this module alone.*0\.weight"):
        to_crossd(model)
    converted: Any = to_crossd(model, where="2")
    assert converted[0].weight is converted[1].weight
