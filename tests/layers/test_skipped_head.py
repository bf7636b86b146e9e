"""Layers whose head is skipped: what of it costs, and gradients of 0 that whatever writes into gradients may have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from heads import operator_calls
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, CrossDConv3d

VIEWS = ("view", "_unsafe_view", "squeeze", "unsqueeze", "detach", "expand", "unsafe_split_with_sizes", "permute")
MODES = ("float32", "bfloat16", "autocast")


def pointwise(**options: Any) -> CrossDConv2d:
    return CrossDConv2d(6, 8, 1, **options)


def fixed() -> CrossDConv2d:
    layer = CrossDConv2d(6, 8, 3, padding=1)
    layer.fix_shift(torch.tensor([0.5, 1.5, -1.0]))
    return layer


def volume() -> CrossDConv3d:
    return CrossDConv3d(6, 8, 1, dim=1)


LAYERS: dict[str, Callable[[], Any]] = {"pointwise": pointwise, "fixed": fixed, "volume": volume}
of_each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def launching_calls(layer: nn.Module, input: Tensor, mode: str) -> list[str]:
    """The operators of a forward and backward pass that do more than to look at memory in another way."""
    if mode == "bfloat16":
        layer = layer.bfloat16()
    dtype = torch.float32 if mode == "float32" else torch.bfloat16
    input = input.to(dtype, copy=True).requires_grad_()
    with operator_calls() as names:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            output = layer(input)
        output.backward(output.detach())
    return sorted(name.removeprefix("aten::") for name in names if name.removeprefix("aten::") not in VIEWS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [2, 3])
def test_a_pointwise_layer_costs_one_launch_beside_its_convolution(mode: str, axes: int) -> None:
    input = torch.randn(2, 6, *[4] * axes)
    ours, plain = (CrossDConv2d, nn.Conv2d) if axes == 2 else (CrossDConv3d, nn.Conv3d)
    got = launching_calls(ours(6, 8, 1), input, mode)
    assert got == sorted([*launching_calls(plain(6, 8, 1), input, mode), "zeros"])


def test_a_pointwise_layer_without_gradient_is_a_plain_convolution() -> None:
    layer, input = pointwise(), torch.randn(2, 6, 4, 4)
    with torch.no_grad(), operator_calls() as names:
        layer(input)
    assert names == ["aten::squeeze", "aten::convolution"]


def gradients(layer: nn.Module, times: int = 1) -> list[Tensor]:
    """Of the head's parameters, as they lie in `grad`."""
    axes = 3 if isinstance(layer, CrossDConv3d) else 2
    for _ in range(times):
        layer(torch.randn(2, 6, *[4] * axes)).sum().backward()
    return [parameter.grad for parameter in layer.rotation_params.parameters()]


@of_each_layer
@pytest.mark.parametrize("change", [None, "half norm", "channels last", "frozen", "frozen head", "nested"])
def test_gradients_are_zeros_as_their_parameters(make: Callable[[], Any], change: str | None) -> None:
    layer = make()
    head = layer.rotation_params
    if change == "half norm":
        head[1].bfloat16()
    elif change == "channels last" and not isinstance(layer, CrossDConv3d):
        layer.to(memory_format=torch.channels_last)
    elif change == "frozen":
        head[0].bias.requires_grad_(False)
    elif change == "frozen head":
        head.requires_grad_(False)
    elif change == "nested":
        head[0] = nn.Sequential(head[0])
    for parameter, grad in zip(head.parameters(), gradients(layer), strict=True):
        if not parameter.requires_grad:
            assert grad is None
            continue
        assert grad.shape == parameter.shape and grad.dtype is parameter.dtype and not grad.any()
        assert grad.is_contiguous() and not grad._is_view()
    assert layer.weights_3d.grad.any()


def test_a_parameter_in_two_places_gets_one() -> None:
    layer = pointwise()
    layer.rotation_params[3].weight = nn.Parameter(torch.randn(4, 16, 1, 1))
    layer.rotation_params[1].bias = layer.rotation_params[1].weight
    assert [tuple(grad.shape) for grad in gradients(layer)] == [(16, 6, 1, 1), (16,), (16,), (4, 16, 1, 1), (4,)]


@of_each_layer
def test_no_two_share_an_element(make: Callable[[], Any]) -> None:
    """Not within a layer, nor two layers, nor two passes."""
    layers = [make(), make()]
    found = [grad for layer in layers for grad in gradients(layer)]
    kept, addresses = found, {grad.data_ptr() for grad in found}
    for layer in layers:
        layer.zero_grad(set_to_none=True)
    found = [grad for layer in layers for grad in gradients(layer)]
    assert len(addresses | {grad.data_ptr() for grad in found}) == 2 * 12
    for number, grad in enumerate([*kept, *found]):
        assert not grad.any()
        grad.fill_(number + 1)
    for number, grad in enumerate([*kept, *found]):
        assert (grad == number + 1).all()


def test_gradients_asked_for_can_be_written_into_under_autograd() -> None:
    layer = pointwise()
    output = layer(torch.randn(2, 6, 4, 4)).sum()
    found = torch.autograd.grad(output, [*layer.rotation_params.parameters()])
    scale = torch.ones((), requires_grad=True)
    for grad in found:
        grad.add_(1).mul_(scale)
        assert grad.requires_grad
    assert sum(grad.sum() for grad in found).item() == sum(grad.numel() for grad in found)


def of_separate_memory(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = parameter.grad.clone()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters, fast: torch.optim.SGD(
            parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=fast
        ),
        lambda parameters, fast: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1, fused=fast),
        lambda parameters, fast: torch.optim.AdamW(parameters, 0.1, weight_decay=0.1, foreach=fast),
        lambda parameters, fast: torch.optim.Adam(parameters, 0.1, weight_decay=0.1, fused=fast),
    ],
    ids=["foreach SGD", "fused SGD", "foreach AdamW", "fused Adam"],
)
def test_steps_equal_those_with_gradients_of_their_own_memory(optimizer: Any, set_to_none: bool) -> None:
    """Accumulated over two passes, unscaled, clipped, and used by what writes into gradients (Nesterov's momentum)."""
    ours = nn.Sequential(pointwise(), CrossDConv2d(8, 6, 1))
    theirs = copy.deepcopy(ours)
    images = torch.randn(2, 3, 6, 4, 4)
    for model, fast in ((ours, True), (theirs, False)):
        steps = optimizer(model.parameters(), fast)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        for pair in images:
            for image in pair:
                scaler.scale(model(image[None]).square().sum()).backward()
                if model is theirs:
                    of_separate_memory(model)
            scaler.unscale_(steps)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5, foreach=fast)
            scaler.step(steps)
            scaler.update()
            steps.zero_grad(set_to_none=set_to_none)
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)
