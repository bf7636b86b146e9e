"""The whole head as one operator, in float32 on the CPU: what its layers compute."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from heads import float32_head, operator_calls
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossd_ops import CrossDConv2d
from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite

pytestmark = pytest.mark.usefixtures("compiled_library")


def errors(ours: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((mine.detach() - wanted.detach()).abs().max()) for mine, wanted in zip(ours, exact, strict=True)]


def compare_with_layers(head: nn.Sequential, input: Tensor, rotation: str) -> None:
    """Shift and gradients against the layers in float64; the layers in float32 show what rounding does to them."""
    plain, exact = copy.deepcopy(head), copy.deepcopy(head).double()
    grad = torch.randn(input.shape[0], 3)
    results = []
    for layers, dtype in ((head, torch.float32), (plain, torch.float32), (exact, torch.float64)):
        # Copies of another dtype keep their strides, but for those of expanded tensors.
        leaf = input.detach().to(dtype).requires_grad_()
        shift = predict_shift(leaf, layers, rotation) if layers is head else composite(layers(leaf), rotation)
        results.append([shift, *torch.autograd.grad(shift, [leaf, *layers.parameters()], grad.to(dtype))])
    ours, theirs, wanted = results
    # The gradients before the norm are differences of sums of this size, nothing but rounding is left for two values.
    size = max(float(tensor.detach().abs().max()) for tensor in wanted)
    rounding = 1e-5 + (1e-2 / (input.numel() / input.shape[1]) ** 2 if head[1].training else 0)
    for error, usual in zip(errors(ours, wanted), errors(theirs, wanted), strict=True):
        assert error <= 4 * usual + rounding * size
    for name, value in head[1].named_buffers():
        torch.testing.assert_close(value.double(), exact[1].get_buffer(name).double(), rtol=1e-5, atol=1e-6)


SHAPES = [(1, 1, 5), (2, 1, 1), (5, 2, 8), (3, 7, 7), (1, 14, 14), (2, 57, 33)]  # samples, rows, columns


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16, 17, 64])
def test_operator_equals_the_layers(channels: int, training: bool) -> None:
    for index, (samples, *size) in enumerate([*SHAPES, *([] if training else [(1, 1, 1)])]):
        head, input = float32_head(channels, training=training), torch.randn(samples, channels, *size)
        with operator_calls() as names:
            predict_shift(input, copy.deepcopy(head), "linear")
        assert "crossd_ops::predict_shift" in names
        compare_with_layers(head, input, ["linear", "exact"][index % 2])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [3, 18])
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "cropped", "strided", "expanded", "every_other"])
def test_every_layout(layout: str, channels: int, training: bool) -> None:
    whole = torch.randn(3, channels, 23, 30)
    input = {
        "channels_last": whole.contiguous(memory_format=torch.channels_last),
        "transposed": whole.mT,
        "cropped": whole[:, :, 2:-3, 1:],
        "strided": whole[:, :, ::2, ::3],
        "expanded": whole[:1].expand(3, -1, -1, -1),
        "every_other": torch.randn(3, 2 * channels, 23, 30)[:, ::2],
    }[layout]
    compare_with_layers(float32_head(channels, training=training), input, "exact")


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("tracked", [True, False])
def test_running_statistics_are_those_of_batch_norm(momentum: float | None, tracked: bool) -> None:
    head = float32_head(3)
    head[1] = nn.BatchNorm2d(16, momentum=momentum, track_running_stats=tracked)
    other = copy.deepcopy(head)
    for _ in range(3):
        input = torch.randn(2, 3, 4, 5) * 2 + 1
        torch.testing.assert_close(predict_shift(input, head, "linear"), composite(other(input), "linear"))
    for mine, wanted in zip(head[1].buffers(), other[1].buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)
    input = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(predict_shift(input, head.eval(), "exact"), composite(other.eval()(input), "exact"))


@pytest.mark.parametrize("outlier", [False, True])
def test_a_mean_far_from_zero_costs_few_digits(outlier: bool) -> None:
    """Sums of squares would lose all of them, and so would deviations from the first pixel where that one is apart."""
    head = CrossDConv2d(3, 4, 3).rotation_params
    input = torch.randn(4, 3, 40, 50) + 100
    if outlier:
        input[0, :, 0, 0] = 0
    hidden = copy.deepcopy(head[0]).double()(input.double())
    predict_shift(input, head, "linear")
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
    head[1].momentum = 1.0
    predict_shift(input, head, "linear")
    assert ((head[1].running_mean - mean).abs() <= 1e-5 * variance.sqrt().clamp(min=1)).all()
    torch.testing.assert_close(head[1].running_var.double(), variance, rtol=2e-5, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_not_finite_samples(training: bool) -> None:
    head = float32_head(3, training=training)
    for value in (math.nan, math.inf):
        input = torch.randn(3, 3, 9, 20)
        input[1, 2, 3, 4] = value
        leaf = input.clone().requires_grad_()
        shift = predict_shift(leaf, copy.deepcopy(head), "linear")
        wanted = composite(copy.deepcopy(head)(input), "linear")
        assert torch.equal(shift.isfinite(), wanted.isfinite())
        assert not shift[1].isfinite().any() and bool(shift[0].isfinite().all()) is not training
        torch.testing.assert_close(shift.detach()[shift.isfinite()], wanted.detach()[shift.isfinite()])
        (grad,) = torch.autograd.grad(shift.sum(), leaf)
        assert bool(grad[0].isfinite().all()) is not training and grad[1].isnan().any()


@pytest.mark.parametrize("training", [True, False])
def test_no_work_for_gradients_that_nobody_needs(training: bool) -> None:
    input = torch.randn(2, 6, 9, 8)
    whole = float32_head(6, training=training)
    for needed in (["input"], ["0.weight"], ["1.bias", "3.weight"], ["input", "1.weight", "3.bias"]):
        head, leaf = copy.deepcopy(whole), input.clone().requires_grad_()
        shift = predict_shift(leaf, head, "linear")
        sources = {"input": leaf, **dict(head.named_parameters())}
        expected = dict(zip(sources, torch.autograd.grad(shift.sum(), [*sources.values()]), strict=True))
        for name, tensor in sources.items():
            tensor.requires_grad_(name in needed)
        shift = predict_shift(leaf, head, "linear")
        with operator_calls() as names:
            grads = torch.autograd.grad(shift.sum(), [sources[name] for name in needed])
        assert names.count("crossd_ops::predict_shift_backward") == 1
        torch.testing.assert_close(list(grads), [expected[name] for name in needed])
    backward = torch.ops.crossd_ops.predict_shift_backward
    parameters = [parameter.detach() for parameter in whole.parameters()]
    shift, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(
        input, *parameters[:4], None, None, 1e-5, *parameters[4:], False
    )
    small = (*parameters[:4], mean, variance, training, 1e-5, *parameters[4:], statistics, False)
    for need_input, need_parameters in ((True, False), (False, True), (False, False)):
        grads = backward(shift, input, *small, need_input, need_parameters)
        assert (grads[0].numel() > 0) is need_input
        assert all((grad.numel() > 0) is need_parameters for grad in grads[1:])


def test_second_derivatives_in_float32() -> None:
    """The graph of the gradient leads to the same tensors, so a penalty on it has the gradient that layers give it."""
    input = torch.randn(3, 4, 6, 5)
    results = []
    for plain in (False, True):
        torch.manual_seed(1)
        head, leaf = float32_head(4), input.clone().requires_grad_()
        shift = composite(head(leaf), "exact") if plain else predict_shift(leaf, head, "exact")
        (grad,) = torch.autograd.grad(shift.pow(3).sum(), leaf, create_graph=True)  # the squares add up to 3
        results.append(torch.autograd.grad(grad.square().sum() * 100, [leaf, *head.parameters()], allow_unused=True))
    for mine, wanted in zip(*results, strict=True):
        if wanted is not None or mine is not None:
            none = torch.zeros(()) if wanted is None else wanted
            torch.testing.assert_close(torch.zeros(()) if mine is None else mine, none, rtol=1e-3, atol=1e-4)


def test_checkpointing_gives_the_same_gradients() -> None:
    module = CrossDConv2d(3, 4, 3, padding=1)
    other, input = copy.deepcopy(module), torch.randn(2, 3, 8, 8, requires_grad=True)
    ours = torch.autograd.grad(checkpoint(module, input, use_reentrant=False).sum(), [input, *module.parameters()])
    theirs = torch.autograd.grad(other(input).sum(), [input, *other.parameters()])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_tensors_changed_in_place_are_noticed() -> None:
    head, input = float32_head(3), torch.randn(2, 3, 8, 8)
    shift = predict_shift(input, head, "linear")
    input.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        shift.sum().backward()


def test_one_value_a_channel_is_an_error() -> None:
    head = float32_head(3)
    with pytest.raises(ValueError) as theirs:
        F.batch_norm(torch.ones(1, 16, 1, 1), None, None, training=True)
    with operator_calls() as names, pytest.raises(ValueError) as ours:
        predict_shift(torch.ones(1, 3, 1, 1), head, "linear")
    words = "more than 1 value per channel when training"
    assert "crossd_ops::predict_shift" not in names and words in str(ours.value) and words in str(theirs.value)
    assert head[1].num_batches_tracked == 0
