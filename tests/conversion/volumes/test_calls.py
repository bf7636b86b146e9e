"""Calls of code for images: on a volume of equal slices each gives what it gives on the image, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_3d

DEPTH = 3
Function = Callable[[Tensor], Any]


class Calls(nn.Module):
    """A network whose code calls `function` on a map (B, 4, H, W)."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.parameter = nn.Parameter(torch.randn(4))
        self.function = function

    def forward(self, input: Tensor) -> Any:
        return self.function(self.conv(input))


REDUCED: dict[str, Function] = {
    "mean(axis)": lambda x: x.mean(axis=(2, 3), keepdim=True),
    "mean((2, -1))": lambda x: x.mean((2, -1), True),
    "mean of a list": lambda x: torch.mean(x, dim=[-2, -1]),
    "mean of channels too": lambda x: x.mean((1, 2, 3), keepdim=True),
    "mean of three from behind": lambda x: x.mean((-3, -2, -1)),
    "amax": lambda x: torch.amax(x, (3, 2)),
    "amin": lambda x: x.amin(dim=(-1, -2)),
    "std of a population": lambda x: x.std((2, 3), unbiased=False, keepdim=True),
    "var_mean": lambda x: torch.var_mean(x, (2, 3), correction=0, keepdim=True)[1],
    "var": lambda x: torch.var(x, dim=(2, 3), correction=0),
    "nanmean": lambda x: x.nanmean((2, 3), True),
    "mean(3).mean(2)": lambda x: x.mean(3).mean(2),
    "mean(2).mean(2)": lambda x: x.mean(2).mean(2),
    "mean(2, True).mean(3, True)": lambda x: x.mean(2, True).mean(3, True),
    "mean(-1).mean(-1)": lambda x: x.mean(-1).mean(-1),
    "max(2), max(3)": lambda x: x.max(2, True)[0].max(3, True)[0],
    "max(3)[0].max(2)[0]": lambda x: x.max(3)[0].max(2)[0],
    "min().values": lambda x: x.min(dim=3).values.min(dim=-1).values,
    "median of channels": lambda x: x.median(1, True)[0],
    "sigmoid between": lambda x: torch.sigmoid(x.mean(3) * 2).mean(2),
    "any": lambda x: (x > 0).any(3).any(2),
    "argmax of channels": lambda x: x.argmax(1),
    "channels": lambda x: x.mean(1, keepdim=True),
    "channels, CBAM": lambda x: torch.cat((x.max(1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1),
    "all": lambda x: x.mean(),
    "height": lambda x: x.mean(2, keepdim=True).expand_as(x),
    "width": lambda x: x.amax(3, keepdim=True) * x,
    "vector norm over channels": lambda x: x.norm(dim=1, keepdim=True),
}
POOLED: dict[str, Function] = {
    "adaptive_avg_pool2d(1)": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "adaptive_avg_pool2d((2, 2))": lambda x: F.adaptive_avg_pool2d(x, (2, 2)),
    "adaptive_avg_pool2d([2, None])": lambda x: F.adaptive_avg_pool2d(x, [2, None]),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(input=x, output_size=(1, 1)),
    "max_pool2d": lambda x: F.max_pool2d(x, [2, 2], stride=(2, 1), ceil_mode=True),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, kernel_size=(2, 3), stride=1, divisor_override=5),
    "global pool by the size": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "global pool by two sizes": lambda x: F.avg_pool2d(x, (x.shape[2], x.shape[3])),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    "interpolate by two factors": lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
    "interpolate to a shape": lambda x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear"),
    "interpolate to a pair": lambda x: F.interpolate(x[:, :, ::2, ::2], (x.size(2), x.size(3))),
    "pad of the width": lambda x: F.pad(x, (1, 2)),
    "pad of channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad by replication": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
}
ARRANGED: dict[str, Function] = {
    "flatten(2)": lambda x: x.mean((2, 3), keepdim=True).flatten(2),
    "view(B, C)": lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), x.size(1)),
    "view(B, -1)": lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1),
    "view of four names": lambda x: squeeze_and_excite(x),
    "channels last": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "movedim": lambda x: (x.movedim(1, -1) * torch.arange(4.0)).moveaxis(3, 1),
    "transposes": lambda x: x.transpose(0, 1).swapaxes(1, 0).transpose(1, 3).transpose(-1, -3),
    "shuffled": lambda x: shuffled(x),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda x: torch.cat([part * 2 for part in torch.split(x, [1, 3], dim=1)], dim=1),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "iteration": lambda x: torch.stack([part for part in x]),
    "strides": lambda x: x[:, :, ::2, ::2],
    "cut": lambda x: x[..., 1:, 1:],
    "channels by slice": lambda x: x[:, 1:3],
    "channel": lambda x: x[:, 0:1] * x[:, 1].unsqueeze(1),
    "first voxel": lambda x: x.mean((2, 3), True)[:, :, 0, 0],
    "squeeze": lambda x: x.mean((2, 3), True).squeeze(-1).squeeze(-1),
    "squeeze()": lambda x: x.mean((2, 3), True).squeeze(),
    "new axes": lambda x: x.mean((2, 3))[:, :, None, None] * x,
    "unsqueeze": lambda x: x * x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1).sigmoid(),
    "parameter": lambda x: x * torch.arange(4.0).reshape(1, -1, 1, 1) + torch.arange(4.0).view(-1, 1, 1),
    "where": lambda x: torch.where(x > 0, x, torch.zeros(1, 4, 1, 1)),
    "addcmul": lambda x: torch.addcmul(x, x, torch.ones(4, 1, 1)),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3]),
    "expand(-1)": lambda x: x.expand(-1, -1, -1, -1),
    "softmax of channels": lambda x: torch.softmax(x, 1).log_softmax(dim=-3),
    "normalize": lambda x: F.normalize(x) + F.cosine_similarity(x, 2 * x).unsqueeze(1),
    "setitem": lambda x: put(x.clone()),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last).to(memory_format=torch.channels_last),
    "requires_grad": lambda x: graded(x.detach()) * x,
    "autograd, in place": lambda x: InPlace.apply(x.mean(1)).mean((1, 2)),
    "new tensor": lambda x: x + x.new_ones(x.shape[0], 1, x.shape[2], x.shape[3]) + torch.ones(x.size()),
    "stochastic depth": lambda x: x * x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1)),
    "tokens and back": lambda x: tokens(x),
}


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor) -> Tensor:
        context.mark_dirty(input)
        return input.mul_(2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def graded(x: Tensor) -> Tensor:
    x.requires_grad = True
    return x


def squeeze_and_excite(x: Tensor) -> Tensor:
    b, c, _, _ = x.size()
    return x * F.adaptive_avg_pool2d(x, 1).view(b, c).sigmoid().view(b, c, 1, 1)


def shuffled(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


def put(x: Tensor) -> Tensor:
    x[:, :1] = 0
    x[:, 1:2, 1:, 1:] += 1
    x[x > 0.5] = 0.5
    return x[:, :, 1:, 1:]


def tokens(x: Tensor) -> Tensor:
    b, c, _, _ = x.shape
    rows = x.flatten(2).transpose(1, 2)
    rows = rows.reshape(b, -1, 2, 2, c // 4 or 1).permute(2, 0, 3, 1, 4)  # five axes, and no volume
    return rows[0].flatten(2).transpose(1, 2).reshape(b, -1, 2).mean(1)


def close(output: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        slices = output.unbind(2) if output.dim() == 5 else [output]
        if output.dim() == expected.dim() + 1 == 4:  # without channels
            slices = output.unbind(1)
        for part in slices:
            torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("name", [*REDUCED, *POOLED, *ARRANGED])
def test_calls_are_made_for_volumes(name: str) -> None:
    function = (REDUCED | POOLED | ARRANGED)[name]
    model, image = Calls(function), torch.randn(2, 2, 6, 8)
    close(to_3d(model, "i3d", example=image)(constant(image, DEPTH)), model(image))


class Several(nn.Module):
    """All of what a compiled graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)

    def forward(self, input: Tensor) -> Any:
        x = self.conv(input)
        scale = torch.sigmoid(x.mean((2, 3), keepdim=True)) + x.sum(dim=(-1, -2), keepdim=True).tanh()
        x = torch.cat([F.relu(x * scale), x.abs().sqrt()], 1)
        first, second = x.chunk(2, 1)
        pooled = F.max_pool2d(first, 2) + F.avg_pool2d(second, (2, 2)), F.adaptive_avg_pool2d(x, (2, 2))
        extremes = x.amax((2, 3)).clamp(-1, 1) - torch.amin(x, dim=(2, 3), keepdim=True).flatten(1)
        return *pooled, extremes, F.interpolate(x, scale_factor=2.0, mode="bilinear"), torch.where(x > 1, x, -x)


def test_compiled_calls_are_made_for_volumes() -> None:
    # Without the proof: a sum over a volume is another one than over an image.
    volumes, volume = to_3d(Several(), "i3d"), torch.randn(2, 2, 4, 6, 8)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(volumes, backend="eager", fullgraph=True)(volume), volumes(volume))


REFUSED: dict[str, tuple[Function, str]] = {
    "transpose": (lambda x: x.transpose(2, 3), "height and width exchanged"),
    "T": (lambda x: x.mT, "which is not known"),
    "count": (lambda x: x.sum((2, 3)) / (x.shape[2] + x.shape[3]), "a number computed from the height"),
    "odd": (lambda x: x if x.shape[2] % 4 == 2 else x + 1, "which gives another answer for the depth"),
    "ratio": (lambda x: x * (x.shape[2] / 2), "a number computed from the height"),
    "view": (lambda x: x.view(-1, 16), r"calls view\(\(2, 4, 3, 6, 8\), -1, 16\): the sizes"),
    "view of rows": (lambda x: x.view(2, 4, -1, 8), "the sizes"),
    "conv2d": (lambda x: torch.conv2d(x, torch.ones(1, 4, 1, 1)), r"calls conv2d\(.*which is not known for volumes"),
    "einsum": (lambda x: torch.einsum("bchw->bc", x), "calls einsum.*which is not known for volumes"),
    "matmul": (lambda x: x @ torch.ones(8, 8), "calls matmul.*which is not known for volumes"),
    "plane": (lambda x: x * torch.ones(6, 8), "it has a height, and no depth"),
    "plane of a map": (lambda x: x * torch.ones(2, 4, 6, 8), "it has a height, and no depth"),
    "cat": (lambda x: torch.cat([x, torch.ones(2, 4, 6, 8)], 1), "maps of different axes"),
    "cat of rows": (lambda x: torch.cat([x, x], 2), "along the height"),
    "cumsum": (lambda x: x.cumsum(2), "along the height"),
    "flip": (lambda x: x.flip(2), "along the height"),
    "softmax": (lambda x: x.softmax(-2), "along the height"),
    "row": (lambda x: x[:, :, 1], "the row 1 of a map"),
    "places": (lambda x: x[:, :, [0, 2]], "places given one by one along the axis H"),
    "stripe": (lambda x: x[:, :, :2], "the height cut by"),
    "mask": (lambda x: x[:, :, torch.ones(6, 8, dtype=torch.bool)], "places given one by one"),
    "axis": (lambda x: x.mean(4), "axis 4 of maps"),
    "indices": (lambda x: x.max(2)[1].float(), "indices of a reduction over the height"),
    "argmax": (lambda x: x.argmax(), "a place in the flattened map"),
    "repeat": (lambda x: x.repeat(1, 1, 2, 2), "the height 2, which says nothing of the depth"),
    "resize": (lambda x: F.interpolate(x, (x.shape[3], x.shape[2])), "a width in place of a height"),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "bicubic"),
    "k-th": (lambda x: x.kthvalue(2, 2)[0], "along the height"),
    "vmap": (lambda x: torch.vmap(lambda y: y.mean((1, 2)))(x), "within vmap, where maps have lost an axis"),
    "vmap of the gradient": (lambda x: torch.vmap(torch.func.grad(lambda y: y.mean((1, 2)).sum()))(x), "within vmap"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy().mean((2, 3))), r"numpy.*takes a map out of torch"),
    "lists": (lambda x: torch.tensor(x.detach().tolist()).mean((2, 3)), "takes a map out of torch"),
    "data": (lambda x: assigned(x.clone()), r"data\(.*which is not known"),
    "normalised": (lambda x: F.layer_norm(x, (4, 6, 8)), ""),
    "channels of a shape": (lambda x: x.shape[-3] == 4, "another axis in images and in volumes"),
}


def assigned(x: Tensor) -> Tensor:
    x.data = torch.ones(2, 4, 6, 8)
    return x


@pytest.mark.parametrize("name", REFUSED)
def test_calls_without_a_meaning_are_refused_with_module_function_and_arguments(name: str) -> None:
    function, text = REFUSED[name]
    model = nn.Sequential(nn.Identity(), Calls(function))
    model(torch.randn(2, 2, 6, 8)) if name not in ("axis", "conv2d") else None
    with pytest.raises(
        TypeError, match=f"^1: expected code that works on volumes too, got Calls, which (calls )?.*{text}"
    ):
        to_3d(model, "i3d")(torch.randn(2, 2, DEPTH, 6, 8))
