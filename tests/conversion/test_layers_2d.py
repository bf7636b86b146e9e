"""The twins of timm's convolutions: TensorFlow's padding and standardised weights, against timm's own layers."""

from __future__ import annotations

import importlib
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_zoo import library
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, fourier_shift, to_crossd
from crossd_ops.conversion import CrossDConv2dSame, WeightStandardization

OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "stride": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 5, "stride": 3, "dilation": 2},
    {"kernel_size": 4, "stride": 2, "groups": 2},
    {"kernel_size": (2, 7), "stride": (3, 1), "bias": True},
    {"kernel_size": 2, "stride": 3},
]
SAME = ["Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame"]
STANDARDIZED = ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]


def timm_layer(name: str, **options: Any) -> nn.Conv2d:
    module: nn.Conv2d = getattr(library("timm").layers, name)(4, 6, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("name", sorted({*SAME, *STANDARDIZED}))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(9, 12), (10, 7)], ids=str)
def test_output_of_timm(name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    module = timm_layer(name, **options)
    converted = to_crossd(module)
    images = torch.randn(3, 4, *size, dtype=torch.float64)
    assert isinstance(converted, CrossDConv2d)
    torch.testing.assert_close(converted(images), module(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, (3, 6)])
def test_same_padding_is_tensorflows(kernel_size: Any, dilation: int, stride: int) -> None:
    layer = CrossDConv2dSame(2, 3, kernel_size, stride, dilation, bias=False)
    layer.fix_shift(torch.ones(3))
    for height, width in ((7, 8), (12, 3), (1, 9)):
        output = layer(torch.ones(2, 2, height, width))
        assert output.shape == (2, 3, -(-height // stride), -(-width // stride))
    assert layer.padding == "same"


def test_same_padding_at_stride_one_is_torchs() -> None:
    layer = CrossDConv2dSame(2, 3, (4, 3), dilation=(1, 2))
    plain = CrossDConv2d(2, 3, (4, 3), dilation=(1, 2), padding="same")
    plain.load_state_dict(layer.state_dict())
    layer.eval(), plain.eval()
    images = torch.randn(2, 2, 9, 8)
    torch.testing.assert_close(layer(images), plain(images))


def test_same_padding_exports_with_dynamic_sizes() -> None:
    layer = CrossDConv2dSame(2, 3, 3, stride=2).eval()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(layer, (torch.randn(2, 2, 33, 36),), dynamic_shapes=(axes,))
    for size in ((3, 2, 40, 37), (5, 2, 31, 34)):
        images = torch.randn(size)
        torch.testing.assert_close(program.module()(images), layer(images))


def test_standardised_weight() -> None:
    gain = nn.Parameter(torch.randn(6, 1, 1, 1))
    weight = torch.randn(6, 4, 3, 3, 3) * 3 + 2
    standardization = WeightStandardization(1e-6, gain, 0.3)
    assert "eps=1e-06, scale=0.3, gain=True" in repr(standardization)
    result = standardization(weight)
    torch.testing.assert_close(result.mean((1, 2, 3, 4)), torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.flatten(1).std(1, unbiased=False), 0.3 * gain.detach().flatten().abs())
    # A shift leaves mean and variance alone where the sizes are odd.
    shifted = fourier_shift(result, torch.randn(1, 3))[0]
    torch.testing.assert_close(shifted.flatten(1).std(1, unbiased=False), 0.3 * gain.detach().flatten().abs())


@pytest.mark.parametrize("name", STANDARDIZED)
def test_standardisation_stays_in_training(name: str) -> None:
    layer: Any = to_crossd(timm_layer(name, kernel_size=3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weights_3d.detach().clone()
    layer(torch.randn(2, 4, 8, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    rows = layer.weights_3d.detach().flatten(1)
    assert not torch.equal(rows, before.flatten(1))
    torch.testing.assert_close(rows.mean(1), torch.zeros(6).double(), rtol=0, atol=1e-12)
    step = layer.parametrizations.weights_3d[0]
    scale = 1 if step.gain is None else step.gain.detach().flatten().abs() * step.scale
    torch.testing.assert_close(rows.std(1, unbiased=False), scale * torch.ones(6).double(), rtol=1e-4, atol=0)


def test_state_of_a_standardised_layer() -> None:
    module = timm_layer("ScaledStdConv2d", kernel_size=3)
    layer, other = to_crossd(module), to_crossd(timm_layer("ScaledStdConv2d", kernel_size=3))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    images = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(other.eval()(images), layer.eval()(images), rtol=0, atol=0)


def test_random_start_of_a_standardised_layer() -> None:
    module = timm_layer("ScaledStdConv2d", kernel_size=3)
    layer: Any = to_crossd(module, init="random")
    assert (layer.parametrizations.weights_3d[0].gain == 1).all()
    torch.testing.assert_close(
        layer.weights_3d.flatten(1).std(1, unbiased=False), torch.full((6,), module.scale).double(), rtol=1e-3, atol=0
    )


def test_zeros_beside_a_standardised_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="expected depth_fill='repeat' for StdConv2d"):
        to_crossd(timm_layer("StdConv2d", kernel_size=3), depth_fill="zeros")


def test_unknown_layers_of_timm_are_refused() -> None:
    library("timm")
    module = importlib.import_module("timm.layers.conv2d_same").Conv2dSameExport(4, 6, 3)
    with pytest.raises(TypeError, match="got Conv2dSameExport, which overrides it"):
        to_crossd(module)


class SameWithoutTimm(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


def test_the_name_alone_makes_no_timm_layer() -> None:
    SameWithoutTimm.__name__ = "Conv2dSame"
    with pytest.raises(TypeError, match="got Conv2dSame, which overrides it"):
        to_crossd(SameWithoutTimm(4, 6, 3))
