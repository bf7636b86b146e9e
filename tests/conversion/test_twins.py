"""Layers of other packages, and of users: their 3D twins, or their own code on volumes; and back."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from model_zoo import library
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_2d, to_3d
from crossd_ops.conversion.layers_3d import same_padded


def of_timm(name: str) -> Any:
    library("timm")
    return getattr(importlib.import_module("timm.layers"), name)


def same_pool(kind: str, *arguments: Any, **options: Any) -> nn.Module:
    library("timm")
    return getattr(importlib.import_module("timm.layers.pool2d_same"), kind)(*arguments, **options)


LAYERS = {
    "MaxPool2dSame": lambda: same_pool("MaxPool2dSame", 3, 2),
    "MaxPool2dSame, dilated": lambda: same_pool("MaxPool2dSame", (2, 3), 2, dilation=2),
    "AvgPool2dSame": lambda: same_pool("AvgPool2dSame", 3, 2),
    "AvgPool2dSame, not counted": lambda: same_pool("AvgPool2dSame", (3, 2), (1, 2), count_include_pad=False),
    "BlurPool2d": lambda: of_timm("BlurPool2d")(4),
    "BlurPool2d, any channels": lambda: of_timm("BlurPool2d")(None, 4),
    "BlurPool2d, constant": lambda: of_timm("BlurPool2d")(4, 5, 3, "constant"),
    "LayerScale2d": lambda: of_timm("LayerScale2d")(4, 0.5),
    "GlobalResponseNorm": lambda: of_timm("grn").GlobalResponseNorm(4, channels_last=False),
    "RmsNorm2d": lambda: of_timm("RmsNorm2d")(4),
    "SEModule": lambda: of_timm("SEModule")(4),
    "EffectiveSEModule": lambda: of_timm("EffectiveSEModule")(4),
    "SplitAttn": lambda: of_timm("SplitAttn")(4, radix=2),
    "SelectiveKernel": lambda: of_timm("SelectiveKernel")(4, 4),
    "StochasticDepth": lambda: importlib.import_module("torchvision.ops").StochasticDepth(0.5, "row"),
    "lists, AvgPool2d": lambda: nn.AvgPool2d([2, 2], [2, 2]),
    "lists, MaxPool2d": lambda: nn.MaxPool2d([3, 2], [2, 1], [1, 0]),
    "lists, AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d([1, 1]),
    "lists, Upsample": lambda: nn.Upsample(size=[16, 17]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_slices_see_what_images_see_and_back(name: str) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), LAYERS[name]()).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    input = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    deep: Any = to_3d(model, "center", example=input)
    output, expected = deep(constant(input, 8)), model(input)
    middle = output[:, :, output.shape[2] // 2]
    torch.testing.assert_close(middle, expected, rtol=1e-6, atol=1e-6)  # an eps in GlobalResponseNorm
    back: Any = to_2d(deep, "center")
    assert type(back[1]) is type(model[1])
    assert str(back) == str(model).replace("[", "(").replace("]", ")")  # sizes in lists become tuples
    torch.testing.assert_close(back(input), expected)
    if name != "lists, Upsample":  # interpolation by torch has no second derivative in one of its axes
        volume = torch.randn(1, 3, 6, 7, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(deep, (volume,), fast_mode=True)


def test_the_depth_of_twins_can_be_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), LAYERS["BlurPool2d"](), LAYERS["MaxPool2dSame"]())
    image = torch.randn(1, 3, 16, 16)
    deep = to_3d(model, "i3d", depth={"1": {"stride": 1}, "2": {"kernel": 1, "stride": 1}}, example=image)
    assert deep(torch.randn(1, 3, 7, 16, 16)).shape == (1, 4, 7, 4, 4)
    assert str(to_2d(deep, "i3d")) == str(model)
    with pytest.raises(ValueError, match=r"expected kernel, stride, dilation for 2 \(MaxPool2dSame\), got padding"):
        to_3d(model, "i3d", depth={"2": {"padding": 1}})


def test_the_padding_of_tensorflow() -> None:
    volume = torch.randn(1, 2, 4, 7, 9)
    padded = same_padded(volume, (3, 2, 3), 2, (1, 1, 2), -1.0)
    assert padded.shape == (1, 2, 5, 8, 13) and torch.equal(padded[:, :, :4, :7, 2:11], volume)
    assert (padded[:, :, 4] == -1).all()


class Scaled(nn.Module):
    """Parameters of every shape that code for images has for its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.third = nn.Parameter(torch.randn(4))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.first + self.second - self.third.view(1, -1, 1, 1) * self.third[:, None, None]


def test_parameters_for_each_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Scaled())
    input = torch.randn(2, 3, 6, 6)
    deep = to_3d(model, "center", example=input)
    for part in deep(constant(input, 5)).unbind(2):
        torch.testing.assert_close(part, model(input))


def test_layers_of_other_packages_by_the_names_of_known_ones() -> None:
    class BlurPool2d(nn.Module):  # not timm's
        def forward(self, input: Tensor) -> Tensor:
            return input[:, :, ::2, ::2]

    deep = to_3d(nn.Sequential(nn.Conv2d(3, 4, 1), BlurPool2d()), "i3d", example=torch.randn(1, 3, 6, 8))
    assert deep(torch.randn(1, 3, 4, 6, 8)).shape == (1, 4, 2, 3, 4)
