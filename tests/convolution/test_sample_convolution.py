"""The convolution with given kernels: every method and derivative, against one convolution of torch for each sample."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from convolution_sizes import EVERY_SIZE
from torch import Tensor

from crossd_ops import sample_conv2d, sample_conv3d
from crossd_ops.operators.sample_convolution import derivatives

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def tensors(
    channels: int = 4,
    pixels: tuple[int, ...] = (6, 7),
    groups: int = 1,
    *,
    kernel: tuple[int, ...] = (3, 2, 3),
    samples: int = 3,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Input, weight and bias, all with gradient."""
    shapes = [(samples, channels, *pixels), (samples, 6, channels // groups, *kernel[: len(pixels)]), (6,)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def convolve(input: Tensor, weight: Tensor, bias: Tensor | None = None, **numbers: Any) -> Tensor:
    return (sample_conv2d if input.dim() == 4 else sample_conv3d)(input, weight, bias, **numbers)


def expected(input: Tensor, weight: Tensor, bias: Tensor | None = None, **numbers: Any) -> Tensor:
    convolution = F.conv2d if input.dim() == 4 else F.conv3d
    rows = zip(input.split(1), weight, strict=True)
    return torch.cat([convolution(row, kernel, bias, **numbers) for row, kernel in rows])


def assert_equal_with_gradients(arguments: list[Tensor], **numbers: Any) -> None:
    ours, theirs = convolve(*arguments, **numbers), expected(*arguments, **numbers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    grad = torch.randn_like(theirs)
    found, wanted = (torch.autograd.grad(output, arguments, grad) for output in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-10)


NUMBERS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"stride": 3, "padding": 2, "dilation": 2},
]


@EVERY_SIZE
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_each_method(channels: int, pixels: tuple[int, ...], numbers: dict[str, Any], groups: int) -> None:
    assert_equal_with_gradients(tensors(channels, pixels, groups), groups=groups, **numbers)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 5), (7, 1), (17, 16)], ids=str)
@pytest.mark.parametrize("numbers", [{"stride": (2, 1), "padding": (0, 3)}, {"padding": "same"}], ids=str)
def test_kernels_of_any_size(kernel: tuple[int, int], numbers: dict[str, Any]) -> None:
    assert_equal_with_gradients(tensors(4, (18, 19), kernel=kernel), **numbers)


@pytest.mark.parametrize("samples, groups", [(1, 1), (1, 4), (5, 4)])
def test_one_sample_and_depthwise(samples: int, groups: int) -> None:
    input, weight, bias = tensors(4, (9, 8), groups, samples=samples)
    arguments = [input, weight[:, :4].detach().requires_grad_(), bias[:4].detach().requires_grad_()]
    assert_equal_with_gradients(arguments, padding=1, groups=groups)


@EVERY_SIZE
@pytest.mark.parametrize("groups", [1, 2])
def test_layouts(channels: int, pixels: tuple[int, ...], groups: int) -> None:
    """Channels-last gives channels-last; parts of larger tensors, permuted and expanded ones."""
    input, weight, bias = (tensor.detach() for tensor in tensors(channels, pixels, groups))
    last = CHANNELS_LAST[input.dim()]
    larger = torch.zeros(5, *(size + 2 for size in input.shape[1:]), dtype=input.dtype)
    part = larger[(slice(1, -1), *(slice(2, None) for _ in input.shape[1:]))].copy_(input)
    inputs = [input, input.contiguous(memory_format=last), part, input[:1].expand_as(input)]
    weights = [weight, weight.transpose(0, 2).contiguous().transpose(0, 2), weight[:1].expand_as(weight)]
    strided = torch.stack([bias, bias], 1)[:, 0]
    for x, w in itertools.product(inputs, weights):
        arguments = [tensor.detach().requires_grad_() for tensor in (x, w, strided)]
        ours, theirs = (f(*arguments, padding=1, groups=groups) for f in (convolve, expected))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        grads = [torch.randn_like(theirs).contiguous(memory_format=last), torch.ones(()).double().expand_as(theirs)]
        for grad in grads:
            found, wanted = (torch.autograd.grad(y, arguments, grad, retain_graph=True) for y in (ours, theirs))
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-10)
            if x is inputs[1]:
                assert ours.is_contiguous(memory_format=last) and found[0].is_contiguous(memory_format=last)
            assert found[1].is_contiguous()


@EVERY_SIZE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types(channels: int, pixels: tuple[int, ...], dtype: torch.dtype) -> None:
    arguments = tensors(channels, pixels, dtype=dtype)
    output = convolve(*arguments, padding=1)
    assert output.dtype is dtype
    exact = [tensor.detach().double().requires_grad_() for tensor in arguments]
    wanted = expected(*exact, padding=1)
    found = torch.autograd.grad(output.float().sum() / 8, arguments)
    gradients = torch.autograd.grad(wanted.sum() / 8, exact)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for got, want in zip((output, *found), (wanted, *gradients), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


@EVERY_SIZE
def test_second_derivatives(channels: int, pixels: tuple[int, ...]) -> None:
    arguments = tensors(channels, pixels, 2, samples=2)
    function = lambda *a: convolve(*a, stride=2, padding=1, groups=2)  # noqa: E731
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("frozen", [None, 0, 1, 2])
def test_every_entry_of_the_second_derivatives(frozen: int | None) -> None:
    arguments = tensors(2, (3, 4), samples=2, kernel=(2, 3))
    for i, tensor in enumerate(arguments):
        tensor.requires_grad_(i != frozen)
    function = lambda *a: convolve(*a, stride=(1, 2), padding=1)  # noqa: E731
    assert torch.autograd.gradgradcheck(function, arguments)


def test_third_derivatives() -> None:
    arguments = tensors(2, (5, 4), samples=2)[:2]

    def third(function: Any) -> tuple[Tensor, ...]:
        value = function(*arguments, padding=1).sin().sum()
        for _ in range(2):
            value = sum(g.sin().sum() for g in torch.autograd.grad(value, arguments, create_graph=True))
        return torch.autograd.grad(value, arguments)

    torch.testing.assert_close(third(convolve), third(expected))


def test_of_the_second_derivatives_only_what_is_needed() -> None:
    """The gradient of one gradient alone, the other of which is not asked for."""
    input, weight, _ = tensors()
    for i in range(2):
        found, wanted = [], []
        for function, result in ((convolve, found), (expected, wanted)):
            grad = torch.autograd.grad(function(input, weight).sin().sum(), (input, weight)[i], create_graph=True)[0]
            result += torch.autograd.grad(grad.cos().sum(), (input, weight))
        torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("compiled_library")
def test_gradients_that_nobody_needs_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, ...]] = []
    original = derivatives._eager_backward
    monkeypatch.setattr(derivatives, "_eager_backward", lambda *a: asked.append(a[-2:]) or original(*a))
    every = tensors()
    wanted = torch.autograd.grad(convolve(*every).sum(), every)
    for needs in itertools.product([True, False], repeat=3):
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(every, needs, strict=True)]
        asked.clear()
        output = convolve(*inputs)
        assert output.requires_grad == any(needs)
        if any(needs):
            output.sum().backward()
        assert asked == [needs[:2]] * any(needs[:2])
        for tensor, need, gradient in zip(inputs, needs, wanted, strict=True):
            assert (tensor.grad is not None) == need
            if need:
                torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.usefixtures("compiled_library")
def test_only_input_and_weight_are_kept() -> None:
    arguments = tensors()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        convolve(*arguments)
    assert [tensor.data_ptr() for tensor in kept] == [tensor.data_ptr() for tensor in arguments[:2]]


@pytest.mark.usefixtures("compiled_library")
def test_an_error_from_elsewhere_is_raised_after_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = derivatives._eager_forward
    monkeypatch.setattr(derivatives, "_eager_forward", lambda *a: calls.append(1) or original(*a))

    def refuse(_: Tensor) -> Tensor:
        raise ValueError("a hook of the user's")

    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse), pytest.raises(ValueError, match="hook of the user"):
        convolve(*tensors())
    assert calls == [1]


def test_empty_batches_have_gradients_of_zero(backend: str) -> None:
    arguments = tensors(samples=0)
    output = convolve(*arguments, padding=1)
    assert output.shape == (0, 6, 6, 8)
    found = torch.autograd.grad(output.sum(), arguments)
    torch.testing.assert_close(found, tuple(torch.zeros_like(tensor) for tensor in arguments))


def test_autocast() -> None:
    arguments = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = convolve(*arguments, padding=1)
        assert convolve(*(tensor.double() for tensor in arguments)).dtype is torch.float64
    assert output.dtype is torch.bfloat16
    found = torch.autograd.grad(output.float().sum(), arguments)
    assert all(gradient.dtype is torch.float32 for gradient in found)
    torch.testing.assert_close(output.float(), convolve(*arguments, padding=1), rtol=0.05, atol=0.2)


@pytest.mark.parametrize("axes", [2, 3])
def test_every_backend(backend: str, axes: int) -> None:
    assert_equal_with_gradients(tensors(4, (6, 7, 5)[:axes], 2), stride=2, padding=1, groups=2)


INPUT, WEIGHT, BIAS = (tensor.detach() for tensor in tensors())
BAD: list[tuple[type[Exception], dict[str, Any], str]] = [
    (ValueError, {"input": INPUT[:2]}, r"weight: expected \(2, O, C, Kh, Kw\), got \(3, 6, 4, 3, 2\)"),
    (ValueError, {"input": INPUT[0]}, r"input: expected \(B, C, H, W\), got \(4, 6, 7\)"),
    (ValueError, {"weight": WEIGHT[0]}, r"weight: expected \(B, O, C, Kh, Kw\), got \(6, 4, 3, 2\)"),
    (ValueError, {"weight": WEIGHT[..., :0]}, r"weight: expected kernel sizes of at least 1, got \(3, 6, 4, 3, 0\)"),
    (ValueError, {"groups": 4}, r"weight: expected a multiple of 4 groups as O, got \(3, 6, 4, 3, 2\)"),
    (ValueError, {"groups": 2}, r"input: expected 8 channels, got \(3, 4, 6, 7\)"),
    (ValueError, {"groups": 0}, "groups: expected a positive int, got 0"),
    (ValueError, {"bias": BIAS[:5]}, r"bias: expected \(6,\), got \(5,\)"),
    (ValueError, {"stride": 0}, "stride: expected one int or 2, each at least 1, got 0"),
    (ValueError, {"stride": 2, "padding": "same"}, r"padding: expected .* got 'same' \(stride 2\)"),
    (
        ValueError,
        {"input": INPUT[..., :1], "dilation": (1, 3)},
        r"input: expected at least 4 pixels along each axis with padding, got \(3, 4, 6, 1\)",
    ),
    (ValueError, {"weight": WEIGHT.to("meta")}, r"input: expected the device of weight \(meta\), got cpu"),
    (
        TypeError,
        {"weight": WEIGHT.float()},
        r"input: expected the dtype of weight \(torch.float32\), got torch.float64",
    ),
    (TypeError, {"weight": WEIGHT.long()}, "weight: expected a dtype of float64, float32, bfloat16 or float16, got"),
    (TypeError, {"input": INPUT.to_sparse()}, "input: expected a tensor with strides, got one of torch.sparse_coo"),
    (TypeError, {"bias": 1.5}, "bias: expected a Tensor, got float"),
]


@pytest.mark.parametrize("error, bad, message", BAD, ids=lambda value: "-".join(value) if type(value) is dict else "")
def test_bad_arguments_are_named(backend: str, error: type[Exception], bad: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_conv2d(**{"input": INPUT, "weight": WEIGHT, "bias": BIAS} | bad)
