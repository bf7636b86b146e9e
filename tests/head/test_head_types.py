"""The whole head in half types, and of tensors of several types side by side: what its layers compute, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from heads import float32_head, operator_calls
from torch import Tensor, nn

from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite

pytestmark = pytest.mark.usefixtures("compiled_library")
HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALF]


def called(head: nn.Sequential, input: Tensor, rotation: str = "linear") -> Tensor:
    """The shift, by the operator."""
    with operator_calls() as names:
        shift = predict_shift(input, head, rotation)
    assert "crossd_ops::predict_shift" in names and shift.dtype is torch.float32
    assert not [name for name in names if "conv" in name or "norm" in name], names
    return shift


def compare_with_float64(head: nn.Sequential, input: Tensor, shift: Tensor, rotation: str) -> None:
    """Shift, gradients and running statistics, each rounded to its type once, against layers in float64."""
    leaves = [input, *head.parameters()]
    exact = copy.deepcopy(head).double()
    for mine, other in zip(head.buffers(), exact.buffers(), strict=True):
        other.copy_(mine)
    leaf = input.detach().double().requires_grad_()
    wanted = composite(exact(leaf), rotation)
    torch.testing.assert_close(shift.double(), wanted, rtol=1e-4, atol=1e-4)
    grad = torch.randn(shift.shape)
    found = torch.autograd.grad(shift, leaves, grad)
    others = torch.autograd.grad(wanted, [leaf, *exact.parameters()], grad.double())
    size = max(float(other.abs().max()) for other in others)
    for leaf, mine, other in zip(leaves, found, others, strict=True):
        assert mine.dtype is leaf.dtype
        unit = torch.finfo(mine.dtype).eps
        torch.testing.assert_close(mine.double(), other, rtol=unit, atol=1e-5 * size + unit * 1e-3)


def with_types(head: nn.Sequential, convolutions: torch.dtype, norm: torch.dtype) -> nn.Sequential:
    for index in (0, 3):
        head[index].to(convolutions)
    head[1].to(norm)
    return head


LAYOUTS = ["contiguous", "channels_last", "transposed", "cropped", "expanded"]


def laid_out(whole: Tensor, layout: str) -> Tensor:
    return {
        "contiguous": whole,
        "channels_last": whole.contiguous(memory_format=torch.channels_last),
        "transposed": whole.mT,
        "cropped": whole[:, :, 2:-3, 1:],
        "expanded": whole[:1].expand_as(whole),
    }[layout]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("norm", [None, torch.float32], ids=["norm of its type", "norm in float32"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_layers_in_half_types(dtype: torch.dtype, norm: torch.dtype | None, training: bool) -> None:
    for index, layout in enumerate(LAYOUTS):
        for channels in (3, 18, 64):
            head = with_types(float32_head(channels, training=training), dtype, norm or dtype)
            input = laid_out(torch.randn(3, channels, 19, 21).to(dtype), layout).detach().requires_grad_()
            rotation = ["linear", "exact"][index % 2]
            before = copy.deepcopy(head)
            shift = called(head, input, rotation)
            compare_with_float64(before, input, predict_shift(input, before, rotation), rotation)
            assert torch.equal(predict_shift(input, copy.deepcopy(head), rotation), shift) or not training


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("given", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_types_side_by_side_under_autocast(
    dtype: torch.dtype, given: torch.dtype, stored: torch.dtype, training: bool
) -> None:
    """Parameters as they are stored, without a cast; the input in autocast's type."""
    head = with_types(float32_head(5, training=training), stored, torch.float32)
    input = torch.randn(3, 5, 9, 11, dtype=given, requires_grad=True)
    with torch.autocast("cpu", dtype), operator_calls() as names:
        shift = predict_shift(input, head, "exact")
    assert names.count("crossd_ops::predict_shift") == 1
    assert names.count("aten::_to_copy") == (given is not dtype)
    exact = copy.deepcopy(head).float()
    rounded = input.detach().to(dtype).float().requires_grad_()
    wanted = predict_shift(rounded, exact, "exact")
    torch.testing.assert_close(shift, wanted, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(shift.sum(), [input, *head.parameters()])
    others = torch.autograd.grad(wanted.sum(), [rounded, *exact.parameters()])
    for leaf, mine, other in zip([input, *head.parameters()], found, others, strict=True):
        assert mine.dtype is leaf.dtype
        through = other.to(dtype) if leaf is input else other
        torch.testing.assert_close(mine, through.to(mine.dtype), rtol=2 * torch.finfo(mine.dtype).eps, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("norm", DTYPES, ids=str)
def test_running_statistics_in_their_type(norm: torch.dtype, momentum: float | None) -> None:
    dtype = torch.bfloat16 if norm is torch.float32 else norm
    head = with_types(float32_head(4), dtype, norm)
    head[1].momentum = momentum
    for batch in range(3):
        input = (torch.randn(2, 4, 6, 5) * 2 + 1).to(dtype)
        hidden = copy.deepcopy(head[0]).double()(input.double())
        share = momentum or 1 / (batch + 1)
        mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
        expected = [
            before.double() * (1 - share) + now * share
            for before, now in ((head[1].running_mean, mean), (head[1].running_var, variance))
        ]
        called(head, input)
        assert head[1].num_batches_tracked == batch + 1 and head[1].running_mean.dtype is norm
        unit = torch.finfo(norm).eps
        for mine, wanted in zip((head[1].running_mean, head[1].running_var), expected, strict=True):
            torch.testing.assert_close(mine.double(), wanted, rtol=unit + 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("layout", [*LAYOUTS, "odd"])
def test_what_stands_beside_is_added_before_rounding(layout: str, dtype: torch.dtype) -> None:
    head = float32_head(9)
    input = torch.randn(3, 9, 7, 7) if layout == "odd" else laid_out(torch.randn(3, 9, 23, 22).to(dtype), layout)
    input = input.to(dtype)
    beside = torch.empty_like(input).normal_()
    parameters = [parameter.detach() for parameter in head.parameters()]
    shift, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(
        input, *parameters[:4], None, None, 1e-5, *parameters[4:], False
    )
    small = (*parameters[:4], mean, variance, True, 1e-5, *parameters[4:], statistics, False, True, True)
    backward = torch.ops.crossd_ops.predict_shift_backward
    both = backward(shift, input, *small, beside)[0]
    exact = backward(shift, input.float(), *small)[0] + beside.float()
    assert both.dtype is dtype and both.stride() == torch.empty_like(input).stride()
    torch.testing.assert_close(both, exact.to(dtype), rtol=0, atol=0)
    wrong = torch.float16 if dtype is torch.bfloat16 else torch.bfloat16
    with pytest.raises(ValueError, match="grad_beside: expected size, type and device of the input"):
        backward(shift, input, *small, beside.to(wrong))


def test_contract_with_torch() -> None:
    parameters = [parameter.detach() for parameter in float32_head(5).parameters()]
    mixed = [parameters[0].half(), *parameters[1:5], parameters[5].bfloat16()]
    for dtype in HALF:
        forward = (torch.randn(2, 5, 6, 7).to(dtype), *mixed[:4], None, None, 1e-5, *mixed[4:], True)
        torch.library.opcheck(torch.ops.crossd_ops.predict_shift, forward)
        shift, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(*forward)
        assert {tensor.dtype for tensor in (shift, statistics, mean, variance)} == {torch.float32}
        rest = (mean, variance, True, 1e-5, *mixed[4:], statistics, True, True, True, torch.randn(2, 5, 6, 7).to(dtype))
        torch.library.opcheck(torch.ops.crossd_ops.predict_shift_backward, (shift, *forward[:5], *rest))


def test_what_torchs_layers_refuse_they_refuse() -> None:
    """Types that do not go together without autocast are the layers' to refuse, in their words."""
    for convolutions, norm, given in (
        (torch.float32, torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float16, torch.bfloat16),
    ):
        head, input = with_types(float32_head(3), convolutions, norm), torch.randn(2, 3, 5, 4).to(given)
        with pytest.raises(RuntimeError) as theirs:
            copy.deepcopy(head)(input)
        with pytest.raises(RuntimeError) as ours:
            predict_shift(input, head, "linear")
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_second_derivatives(dtype: torch.dtype) -> None:
    """Those of float32 at the same tensors, each rounded to its type."""
    head, input = with_types(float32_head(4), dtype, torch.float32), torch.randn(3, 4, 6, 5).to(dtype)
    results = []
    for layers, of in ((head, dtype), (copy.deepcopy(head).float(), torch.float32)):
        leaf = input.to(of).requires_grad_()
        shift = predict_shift(leaf, layers, "exact")
        (grad,) = torch.autograd.grad(shift.pow(3).sum(), layers[1].weight, create_graph=True)
        sought = [leaf, layers[0].weight, layers[3].weight, layers[1].bias]
        results.append([shift, grad, *torch.autograd.grad(grad.square().sum(), sought)])
    unit = torch.finfo(dtype).eps
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(
            mine.float(), wanted, rtol=4 * unit, atol=4 * unit * float(wanted.detach().abs().max())
        )
