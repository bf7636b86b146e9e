"""The rotation head, the convolutions and the layers on a GPU against their definition in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cuda_device import (  # noqa: F401
    DEVICE,
    DTYPES,
    assert_near,
    compare,
    full_precision,
    named,
    needs_device,
    weight_and_shift,
)
from heads import float32_head, operator_calls
from torch import Tensor, nn

import crossd_ops
from crossd_ops import CrossDConv2d, CrossDConv3d, reference
from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite, rotation_head

pytestmark = [needs_device, pytest.mark.usefixtures("full_precision")]


def test_second_derivatives_of_a_convolution() -> None:
    torch.manual_seed(3)
    image = torch.randn(2, 2, 4, 5, device=DEVICE, dtype=torch.float64).requires_grad_()
    weight, shift = (tensor.to(DEVICE, torch.float64) for tensor in weight_and_shift(2, 2, 3, 3, 3, samples=2))
    inputs = image, weight.requires_grad_(), shift.requires_grad_()
    assert torch.autograd.gradgradcheck(crossd_ops.crossd_conv2d, inputs, nondet_tol=1e-10)  # of libraries


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("rotation", ["linear", "exact"])
@pytest.mark.parametrize("pixels", [(1, 1), (7, 5), (60, 61)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second", "misaligned"])
def test_rotation_head(dtype: torch.dtype, rotation: str, pixels: tuple[int, int], layout: str) -> None:
    scores = torch.randn(3, 4, *pixels).to(dtype)

    def function(scores: Tensor) -> Tensor:
        if layout == "channels_last":
            scores = scores.contiguous(memory_format=torch.channels_last)
        elif layout == "every second":
            scores = torch.stack([scores, scores], -1).flatten(-2)[..., ::2]
        elif layout == "misaligned":
            scores = torch.cat([scores.flatten()[:1], scores.flatten()])[1:].view(scores.shape)
        return rotation_head(scores, rotation)

    compare(function, lambda scores: composite(scores, rotation), scores, dtype=dtype)


def test_rotation_head_second_derivatives() -> None:
    scores = torch.randn(2, 4, 3, 3, device=DEVICE, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(rotation_head, (scores,))


@pytest.mark.parametrize("rotation", ["linear", "exact"])
def test_rotation_shift(rotation: str) -> None:
    axis, angle = F.normalize(torch.randn(6, 3), dim=1), torch.randn(6)

    def function(axis: Tensor, angle: Tensor) -> Tensor:
        return crossd_ops.rotation_shift(axis, angle, rotation=rotation)

    compare(
        function, lambda axis, angle: reference.rotation_shift(axis, angle, rotation), axis, angle, dtype=torch.float32
    )


@pytest.mark.parametrize("training", [True, False])
def test_head_of_a_layer(training: bool) -> None:
    head = CrossDConv2d(6, 4, 3).rotation_params.train(training)
    definition = copy.deepcopy(head).double()
    on_device = copy.deepcopy(head).to(DEVICE)
    compare(
        lambda image: predict_shift(image, on_device, "linear"),
        lambda image: composite(definition(image), "linear"),
        torch.randn(4, 6, 9, 8),
        dtype=torch.float32,
    )
    for mine, wanted in zip(on_device.buffers(), definition.buffers(), strict=True):
        assert_near(mine, wanted, 1e-5)


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("channels", [3, 64, 136, 300])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second"])
def test_head_by_its_operator(mode: str, channels: int, layout: str) -> None:
    """In every type and layout, with each number of warps that share channels, and the gradients of all."""
    dtype = torch.float32 if mode == "autocast" else getattr(torch, mode)
    rounded = torch.bfloat16 if mode == "autocast" else dtype
    head = float32_head(channels).to(dtype)
    definition, on_device = copy.deepcopy(head).double(), copy.deepcopy(head).to(DEVICE)
    images = torch.randn(5, channels, 13, 22).to(rounded)
    if layout == "every second":
        images = images[..., ::2]
    elif layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    placed, leaf = images.to(DEVICE).requires_grad_(), images.double().requires_grad_()
    with operator_calls() as names, torch.autocast(DEVICE.type, torch.bfloat16, enabled=mode == "autocast"):
        shift = predict_shift(placed, on_device, "exact")
    assert [name for name in names if "detach" not in name] == ["crossd_ops::predict_shift"]
    expected = composite(definition(leaf), "exact")
    grad = torch.randn(shift.shape)
    found = torch.autograd.grad(shift, [placed, *on_device.parameters()], grad.to(DEVICE))
    wanted = torch.autograd.grad(expected, [leaf, *definition.parameters()], grad.double())
    assert_near(shift, expected, 1e-4)
    largest = max(float(one.abs().max()) for one in wanted)
    for mine, other in zip(found, wanted, strict=True):
        tolerance = 1e-4 * largest + torch.finfo(mine.dtype).eps * float(other.abs().max())
        torch.testing.assert_close(mine.double().cpu(), other, rtol=0, atol=tolerance)
    for mine, other in zip(on_device.buffers(), definition.buffers(), strict=True):
        assert_near(mine, other, torch.finfo(dtype).eps * 2 if mine.is_floating_point() else 0)


def convolution(functional: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    """The definition: each sample with its own kernels."""

    def definition(image: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        build = reference.fourier_shift_slice if functional is F.conv2d else reference.fourier_shift
        kernels = build(weight, shift)
        rows = zip(image.split(1), kernels, strict=True)
        return torch.cat([functional(row, kernel, None, **options) for row, kernel in rows])

    return definition


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=named)
@pytest.mark.parametrize(
    ("channels", "groups", "size", "pixels"), [(3, 1, 7, 24), (32, 1, 3, 13), (32, 1, 3, 7), (8, 2, 3, 12)]
)
def test_convolutions(dtype: torch.dtype, channels: int, groups: int, size: int, pixels: int) -> None:
    """By each method that the sizes choose."""
    weight, shift = weight_and_shift(8, channels // groups, size, size, size, samples=3, dtype=dtype)
    image = torch.randn(3, channels, pixels, pixels + 1).to(dtype)
    options = {"stride": 2, "padding": size // 2, "groups": groups}

    def function(image: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        return crossd_ops.crossd_conv2d(image, weight, shift, **options)

    compare(function, convolution(F.conv2d, **options), image, weight, shift, dtype=dtype)


def test_convolution_of_volumes() -> None:
    weight, shift = weight_and_shift(4, 3, 3, 3, 3, samples=2)
    image = torch.randn(2, 3, 6, 5, 7)

    def function(image: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        return crossd_ops.crossd_conv3d(image, weight, shift, padding=1)

    compare(function, convolution(F.conv3d, padding=1), image, weight, shift, dtype=torch.float32)


@pytest.mark.parametrize("make", [CrossDConv2d, CrossDConv3d], ids=["2d", "3d"])
@pytest.mark.parametrize("rotation", ["linear", "exact"])
def test_layers(make: type[nn.Module], rotation: str) -> None:
    """A layer with its head, all its gradients, against the same layer by the reference in float64."""
    layer = make(5, 6, 3, padding=1, rotation=rotation)
    definition = copy.deepcopy(layer).double()
    layer = layer.to(DEVICE)
    image = torch.randn(4, 5, 9, 8) if make is CrossDConv2d else torch.randn(3, 5, 6, 7, 5)
    result = layer(image.to(DEVICE))
    grad = torch.randn(result.shape)
    result.backward(grad.to(DEVICE))
    with crossd_ops.use_backend("reference"):
        expected = definition(image.double())
        expected.backward(grad.double())
    assert_near(result, expected, 2e-5)
    wanted = dict(definition.named_parameters())
    for name, parameter in layer.named_parameters():
        if name != "rotation_params.0.bias":  # the norm takes it away: its gradient is rounding alone
            assert_near(parameter.grad, wanted[name].grad, 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=named)
def test_autocast(dtype: torch.dtype) -> None:
    layer = CrossDConv2d(8, 16, 3, padding=1)
    definition = copy.deepcopy(layer).double()
    layer = layer.to(DEVICE)
    image = torch.randn(4, 8, 12, 12)
    with torch.autocast(DEVICE.type, dtype):
        result = layer(image.to(DEVICE).contiguous(memory_format=torch.channels_last))
    assert result.dtype is dtype
    result.float().square().mean().backward()
    assert layer.weights_3d.grad.dtype is torch.float32
    assert layer.weights_3d.grad.isfinite().all()
    with crossd_ops.use_backend("reference"):
        assert_near(result, definition(image.double()), 3e-2)
