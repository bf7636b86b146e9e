"""Networks that were 3D from the start, on images: what their code calls means the same there, or is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_2d, to_3d

Function = Callable[[Tensor], Any]


class Calls(nn.Module):
    """A 3D network whose code calls `function` on (B, 4, D, H, W)."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv3d(2, 4, 1), function

    def forward(self, input: Tensor) -> Any:
        return self.function(self.conv(input))


def padded_as(x: Tensor, other: Tensor) -> Tensor:
    amounts = [0] * (2 * (x.dim() - 2))
    for axis in range(len(x.shape) - 2):
        if x.shape[-axis - 1] != other.shape[-axis - 1]:
            amounts[2 * axis + 1] = 1
    return F.pad(x, amounts)


ALIKE: dict[str, Function] = {
    "elements": lambda x: (2 * x.relu() + torch.sigmoid(x) * x).clamp(max=torch.tensor(3.0)),
    "space of any number of axes": lambda x: x.mean(tuple(range(2, x.dim()))) + x.amax([*range(2, x.ndim)]),
    "all axes": lambda x: x.mean() + x.sum() * 0,
    "channels": lambda x: x.mean(1, keepdim=True) * x.softmax(1) + torch.cat(x.chunk(2, dim=1)[::-1], 1),
    "some channels": lambda x: x[:, 1:3],
    "width": lambda x: x.softmax(-1) * x.amax(-2, keepdim=True),
    "flatten": lambda x: x.flatten(2).mean(2) + x.view(x.size(0), x.shape[1], -1).amax(2) + x.flatten(1).mean(1, True),
    "same place": lambda x: x.expand_as(x) + x.reshape(x.shape) + padded_as(x, x),
    "sizes of space": lambda x: F.interpolate(x[:, :2], size=x.shape[2:]),
    "rank": lambda x: x if x.dim() > 3 and len(x.shape) != 3 else x + 1,
    "layers": lambda x: nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout(0.0))(x),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_means_the_same_passes(name: str) -> None:
    model, image = Calls(ALIKE[name]), torch.randn(2, 2, 6, 8)
    model(torch.randn(2, 2, 3, 6, 8))
    output = model(constant(image, 1))
    torch.testing.assert_close(to_2d(model, "i3d")(image), output.squeeze(2) if output.dim() == 5 else output)


OF_VOLUMES: dict[str, Function] = {
    "mean": lambda x: x.mean((2, 3, 4)),
    "mean from behind": lambda x: x.mean(dim=(-1, -2, -3)),
    "mean of a list": lambda x: torch.mean(x, [2, 3], keepdim=True),
    "mean of the depth": lambda x: x.mean(2),
    "maximum of rows": lambda x: x.max(3)[0],
    "channels gone": lambda x: x.mean(1),
    "norm": lambda x: x.norm(dim=2, keepdim=True),
    "cumsum": lambda x: x.cumsum(2),
    "softmax": lambda x: x.softmax(-3),
    "cat": lambda x: torch.cat([x, x], 2),
    "argmax": lambda x: x.argmax(2),
    "permute": lambda x: x.permute(0, 2, 3, 4, 1),
    "transpose": lambda x: x.transpose(2, 3),
    "pad": lambda x: F.pad(x, (1, 1, 2, 2, 3, 3)),
    "resize": lambda x: F.interpolate(x, (4, 6, 8)),
    "trilinear": lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
    "pool": lambda x: F.adaptive_avg_pool3d(x, 1),
    "pools": lambda x: F.max_pool3d(x, (1, 2, 2)),
    "slice": lambda x: x[:, :, 0],
    "strides": lambda x: x[:, :, ::2],
    "new axes": lambda x: x[..., None],
    "size": lambda x: x / x.size(2),
    "shape": lambda x: x / x.shape[3],
    "part of a shape": lambda x: x.view(-1, *x.shape[-3:]),
    "unpacked": lambda x: five(x),
    "a list of all": lambda x: x / list(x.shape)[2],
    "rank": lambda x: x.mean() if x.dim() == 5 else x.sum(),
    "len": lambda x: x.mean() if len(x.shape) == 5 else x.sum(),
    "scale": lambda x: x * torch.ones(1, 4, 1, 1, 1),
    "plane": lambda x: x * torch.ones(6, 8),
    "view": lambda x: x.view(2, 2, 2, 6, 8),
    "flip": lambda x: x.flip(2),
    "einsum": lambda x: torch.einsum("bcdhw->bc", x),
}


def five(x: Tensor) -> Tensor:
    b, c, d, h, w = x.shape
    return x.view(b, c, d * h * w)


@pytest.mark.parametrize("name", OF_VOLUMES)
def test_what_counts_a_depth_is_refused_with_module_and_call(name: str) -> None:
    model = to_2d(nn.Sequential(nn.Identity(), Calls(OF_VOLUMES[name])), "i3d")
    with pytest.raises(TypeError, match=r"^1: expected code that works on images too, got Calls, which "):
        model(torch.randn(2, 2, 6, 8))


def test_there_and_back() -> None:
    model, image = nn.Sequential(nn.Identity(), Calls(ALIKE["flatten"])), torch.randn(2, 2, 6, 8)
    flat = to_2d(model, "i3d")
    assert type(flat[1]).__name__ == "Calls" and type(flat[1]) is not Calls and isinstance(flat[1], Calls)
    for twin in (copy.deepcopy(flat), to_2d(model, "i3d")):
        torch.testing.assert_close(twin(image), flat(image))
    back = to_3d(flat, "i3d", example=image[:1])
    assert type(back[1]) is Calls and [*vars(back[1])] == [*vars(model[1])]
    volume = torch.randn(2, 2, 3, 6, 8)
    torch.testing.assert_close(back(volume), model(volume))


class Pooled(nn.Module):
    """Of which a compiled graph shows all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        x = self.conv(input)
        return torch.cat([x.relu(), x.sigmoid()], 1).flatten(2).mean(2)


def test_compiled_exported_traced_and_pickled() -> None:
    model, image = Pooled(), torch.randn(2, 2, 6, 8)
    flat = to_2d(model, "i3d")
    expected = flat(image)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(flat, backend="eager", fullgraph=True)(image), expected)
    torch.testing.assert_close(torch.export.export(flat, (image,)).module()(image), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(flat))(image), expected)
    with pytest.raises(TypeError, match=r"model: expected torch\.export or torch\.jit\.trace for Pooled"):
        torch.fx.symbolic_trace(flat)


class Elements(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv3d(2, 4, 1), function

    def forward(self, input: Tensor) -> Any:
        x = self.conv(input)
        return self.function(torch.cat([x.relu(), 2 * x], 1))


def test_traces_of_code_for_volumes() -> None:
    image = torch.randn(2, 2, 6, 8)
    alike, other = (Elements(function) for function in (lambda x: x.flatten(1), lambda x: x.mean((2, 3, 4))))
    flat = to_2d(torch.fx.symbolic_trace(alike), "i3d")
    torch.testing.assert_close(flat(image), alike(constant(image, 1)))
    with pytest.raises(TypeError, match=r"model: expected a graph of calls that mean the same .* calls mean\(.*2, 3"):
        to_2d(torch.fx.symbolic_trace(other), "i3d")
