"""torch.export of networks of volumes, also in the strict mode, which shows operators of Python in place of methods."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd_ops import to_3d


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 4, 1), function

    def forward(self, input: Tensor) -> Tensor:
        return self.function(self.conv(input))


def updated(x: Tensor) -> Tensor:
    x = x.abs()
    x += 1
    x -= x.mean((2, 3), keepdim=True)
    x *= 2
    x /= 4
    return x


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "scales": lambda x: 2 * x * 3 + x * x.mean((2, 3), keepdim=True),
    "divides": lambda x: 1 / x + x / 2 + x // 3 + x % 5,
    "adds": lambda x: 1 + x + 2 + x.amax((2, 3), keepdim=True),
    "subtracts": lambda x: 1 - x - 2,
    "powers": lambda x: x**2 + 2**x,
    "signs": lambda x: -x + abs(x) + (+x),
    "compares": lambda x: torch.where((x > 0) & ~(x > 2) | (x == 0), x, (x != 1).float() - (x <= 3).float()),
    "cuts": lambda x: x[:, :, ::2, ::2] * x[:, 1:3].mean(),
    "updates": updated,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_in_strict_export(name: str) -> None:
    volumes = to_3d(Calls(OPERATORS[name]), "i3d", example=torch.randn(1, 1, 6, 8)).eval()
    volume = torch.randn(2, 1, 4, 6, 8)
    for exported in (torch.export.export(volumes, (volume,), strict=strict) for strict in (True, False)):
        torch.testing.assert_close(exported.module()(volume), volumes(volume))


def test_refusals_in_strict_export_have_their_text() -> None:
    volumes = to_3d(nn.Sequential(nn.Identity(), Calls(lambda x: 2 * torch.mul(x, x.mean((1, 2))))), "i3d")
    text = r"1: expected code that works on volumes too, got Calls, which calls mul\(\(2, 4, 4, 6, 8\), \(2, 8\)\)"
    with pytest.raises(Exception, match=text):
        torch.export.export(volumes, (torch.randn(2, 1, 4, 6, 8),), strict=True)
    volumes = to_3d(Calls(lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic") * 2), "i3d")
    with pytest.raises(Exception, match=r"got Calls, which calls interpolate\(.*\): bicubic, which torch has"):
        torch.export.export(volumes, (torch.randn(2, 1, 4, 6, 8),), strict=True)
