"""Networks of which a compiled graph does not show all: they run as they are, and others compile after them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd_ops import to_3d


def helper(input: Tensor) -> Tensor:
    return F.avg_pool2d(input, (input.shape[2], input.shape[3]))


class Functions(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input)


class Sizes(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        b, c = input.shape[:2]
        return F.adaptive_avg_pool2d(input, 1).view(b, c)


@pytest.mark.parametrize("part", [Sizes(), Functions(helper), Functions(lambda x: F.pad(x, (1, 1, 1, 1)))])
def test_code_that_compiled_graphs_do_not_show_runs_as_it_is(part: nn.Module) -> None:
    model, volume = nn.Sequential(nn.Conv2d(1, 4, 1), part), torch.randn(2, 1, 3, 4, 5)
    volumes = to_3d(model, "i3d", example=volume[:, :, 0])
    expected = volumes(volume)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="1: expected code that a compiled graph shows, got"):
        torch.compile(volumes, backend="eager", fullgraph=True)(volume)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(volumes, backend="eager")(volume), expected)


@pytest.mark.parametrize("skipped", [Sizes(), Functions(lambda x: F.pad(x, (1, 1, 1, 1)))])
def test_networks_compile_after_one_that_is_not_compiled(skipped: nn.Module) -> None:
    torch._dynamo.reset()
    image = torch.randn(1, 1, 4, 5)
    first = to_3d(nn.Sequential(nn.Conv2d(1, 4, 1), skipped), "i3d", example=image)
    torch.compile(first, backend="eager")(torch.ones(2, 1, 3, 4, 5))
    pooled = Functions(lambda x: F.max_pool2d(x, 2).mean((2, 3)))
    volumes = to_3d(nn.Sequential(nn.Conv2d(1, 4, 1), pooled), "i3d", example=image)
    compiled = torch.compile(volumes, backend="eager", fullgraph=True)
    for sizes in ((6, 7, 8), (5, 5, 5), (4, 2, 4)):  # dynamic from the second on
        volume = torch.randn(2, 1, *sizes)
        torch.testing.assert_close(compiled(volume), volumes(volume))
