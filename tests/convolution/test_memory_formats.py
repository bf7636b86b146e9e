"""Result and gradient of the input have the memory format of the input, as those of torch's own convolutions have."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from convolution_sizes import EVERY_SIZE
from torch import Tensor
from torch._subclasses import FakeTensorMode

from crossd_ops import crossd_conv2d, crossd_conv3d, reference, use_backend
from crossd_ops.tuning import choice

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def arguments_of(
    channels: int, pixels: tuple[int, ...], groups: int = 1, samples: int = 2, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Input, in channels-last, weight, shift and bias; all want a gradient."""
    shapes = [(samples, channels, *pixels), (6, channels // groups, 3, 3, 3), (samples, 3), (6,)]
    input, *others = (torch.randn(shape).to(dtype) for shape in shapes)
    input = input.contiguous(memory_format=CHANNELS_LAST[input.dim()])
    return [tensor.requires_grad_() for tensor in (input, *others)]


def convolve(*arguments: object) -> Tensor:
    return (crossd_conv2d if arguments[0].dim() == 4 else crossd_conv3d)(*arguments)  # type: ignore[attr-defined]


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=CHANNELS_LAST[tensor.dim()])


def expected(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor, *numbers: object) -> Tensor:
    if input.dim() == 4:
        kernels, convolution = reference.fourier_shift_slice(weight, shift), F.conv2d
    else:
        kernels, convolution = reference.fourier_shift(weight, shift), F.conv3d
    rows = [convolution(row[None], kernel, bias, *numbers) for row, kernel in zip(input, kernels, strict=True)]
    return torch.cat(rows)


@EVERY_SIZE
@pytest.mark.parametrize("samples, groups, stride", [(2, 1, 1), (1, 1, 2), (3, 2, 2)])
def test_every_method(channels: int, pixels: tuple[int, ...], samples: int, groups: int, stride: int) -> None:
    arguments = arguments_of(channels, pixels, groups, samples)
    numbers = stride, 1, 1, groups
    output, wanted = convolve(*arguments, *numbers), expected(*arguments, *numbers)
    assert is_channels_last(output)
    assert not output._is_view()
    torch.testing.assert_close(output, wanted, rtol=0, atol=1e-11)
    grad = torch.randn_like(wanted)
    of_wanted = torch.autograd.grad(wanted, arguments, grad)
    for given in (grad, grad.contiguous(memory_format=CHANNELS_LAST[grad.dim()])):
        found = torch.autograd.grad(output, arguments, given, retain_graph=True)
        assert is_channels_last(found[0])
        assert found[1].is_contiguous()
        torch.testing.assert_close(found, of_wanted, rtol=1e-11, atol=1e-10)


@EVERY_SIZE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type(channels: int, pixels: tuple[int, ...], dtype: torch.dtype) -> None:
    arguments = arguments_of(channels, pixels, dtype=dtype)
    output = convolve(*arguments, 1, 1)
    assert is_channels_last(output)
    found = torch.autograd.grad(output.float().sum() / 8, arguments)
    assert is_channels_last(found[0])
    exact = [tensor.detach().double().requires_grad_() for tensor in arguments]
    wanted = expected(*exact, 1, 1)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    gradients = torch.autograd.grad(wanted.sum() / 8, exact)
    for got, want in zip((output, *found), (wanted, *gradients), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * want.abs().max().item())


def inputs_of_many_layouts() -> dict[str, Tensor]:
    """Sizes of 1 among them, for which strides say little."""
    sizes = itertools.product((1, 2), (1, 4), (1, 5), (1, 6))
    found = {}
    for size in sizes:
        dense = torch.randn(size)
        found[f"{size}"] = dense
        found[f"{size}, channels-last"] = dense.contiguous(memory_format=torch.channels_last)
        found[f"{size}, of permuted memory"] = dense.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    larger = torch.randn(3, 8, 9, 10).contiguous(memory_format=torch.channels_last)
    found["every second channel"] = larger[:, ::2]
    found["some channels"] = larger[:, :4]
    found["some pixels"] = larger[:, :4, 2:6, 1:8]
    found["every second pixel"] = larger[:, :4, ::2, ::2]
    found["one sample for all"] = larger[:1, :4].expand(2, -1, -1, -1)
    found["one channel for all"] = larger[:, :1].expand(-1, 4, -1, -1)
    found["one pixel for all"] = larger[:, :4, :1, :1].expand(-1, -1, 5, 6)
    found["transposed"] = torch.randn(2, 4, 6, 5).transpose(2, 3)
    found["samples last"] = torch.randn(4, 5, 6, 2).permute(3, 0, 1, 2)
    return found


LAYOUTS = inputs_of_many_layouts()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["compiled", "reference"])
def test_the_format_is_that_of_conv2d(name: str, layout: str, request: pytest.FixtureRequest) -> None:
    if name == "compiled":
        request.getfixturevalue("compiled_library")
    input = LAYOUTS[layout]
    channels = input.shape[1]
    theirs = F.conv2d(input, torch.randn(4, channels, 3, 3), None, 1, 1)
    with use_backend(name):
        ours = crossd_conv2d(input, torch.randn(4, channels, 3, 3, 3), torch.randn(input.shape[0], 3), None, 1, 1)
    assert ours.stride() == theirs.stride()


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tracers_are_told_the_strides(layout: str) -> None:
    input = LAYOUTS[layout]
    weight, shift = torch.randn(4, input.shape[1], 3, 3, 3), torch.randn(input.shape[0], 3)
    operators = torch.ops.crossd_ops
    place = 1, 1, 1, 1

    def call(mode: FakeTensorMode | None) -> list[Tensor]:
        given = [tensor if mode is None else mode.from_tensor(tensor) for tensor in (input, weight, shift)]
        output = operators.convolution(*given, None, place)
        return [output, *operators.convolution_backward(output, *given, place, True, True, True)]

    real = call(None)
    with FakeTensorMode() as mode:
        fake = call(mode)
    assert [(item.shape, item.stride()) for item in fake] == [(item.shape, item.stride()) for item in real]


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("empty", ["samples", "outputs", "inputs"])
def test_nothing_to_convolve(empty: str) -> None:
    samples, outputs, inputs = (0 if name == empty else 2 for name in ("samples", "outputs", "inputs"))
    input = torch.randn(samples, inputs, 6, 5).contiguous(memory_format=torch.channels_last)
    given = input, torch.randn(outputs, inputs, 3, 3, 3), torch.randn(samples, 3)
    operators = torch.ops.crossd_ops
    output = operators.convolution(*given, None, (1, 1, 1, 1))
    found = operators.convolution_backward(output, *given, (1, 1, 1, 1), True, True, True)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in given]
        fake = operators.convolution(*fakes, None, (1, 1, 1, 1))
        of_fakes = operators.convolution_backward(fake, *fakes, (1, 1, 1, 1), True, True, True)
    strides = [tensor.stride() for tensor in (output, *found)]
    assert [tensor.stride() for tensor in (fake, *of_fakes)] == strides


def per_sample(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """By torch.func, one sample at a time: the way of plain operations."""
    return torch.func.vmap(lambda x, w, s: function(x[None], w, s[None], None, 1, 1)[0], in_dims=(0, None, 0))


@pytest.mark.parametrize("channels, pixels", [(4, (6, 7)), (4, (6, 7, 5))])
def test_the_ways_around_the_operators(channels: int, pixels: tuple[int, ...]) -> None:
    """The reference, torch.func, torch.jit.trace and torch.compile."""
    input, weight, shift, bias = (tensor.detach() for tensor in arguments_of(channels, pixels))
    plain = lambda x: convolve(x, weight, shift, bias, 1, 1)  # noqa: E731
    wanted = plain(input)
    with use_backend("reference"):
        assert is_channels_last(plain(input))
    assert is_channels_last(torch.func.jvp(plain, (input,), (input,))[0])
    assert per_sample(convolve)(input, weight, shift).shape == wanted.shape
    traced = torch.jit.trace(plain, (input,))
    assert is_channels_last(traced(input))
    torch.testing.assert_close(traced(input), wanted)
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    assert is_channels_last(compiled(input))
    assert compiled(input.contiguous()).is_contiguous()
    torch.testing.assert_close(compiled(input), wanted)


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("pixels", [(7, 6), (5, 4, 6)])
@pytest.mark.parametrize("channels, out_channels", [(1, 3), (4, 1), (1, 1)])
def test_one_channel_by_every_method(channels: int, out_channels: int, pixels: tuple[int, ...]) -> None:
    """Its stride, 1 in channels-last, says nothing of where the next sample is."""
    shapes = [(3, channels, *pixels), (out_channels, channels, 3, 3, 3), (3, 3), (out_channels,)]
    input, *others = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    format = CHANNELS_LAST[input.dim()]
    arguments = [tensor.requires_grad_() for tensor in (input.to(memory_format=format), *others)]
    wanted = expected(*arguments, 1, 1)
    of_wanted = torch.autograd.grad(wanted, arguments, grad := torch.randn_like(wanted).to(memory_format=format))
    place = 1, 1, 1, 1
    explained = [choice.explain(*arguments[:3], place, backward=backward) for backward in (False, True)]
    for method in explained[0].possible:
        for found in explained:
            choice.set_method(found.key, method if method in found.possible else None)
        try:
            output = convolve(*arguments, 1, 1)
            torch.testing.assert_close(output, wanted, rtol=0, atol=1e-11)
            torch.testing.assert_close(torch.autograd.grad(output, arguments, grad), of_wanted, rtol=1e-11, atol=1e-10)
        finally:
            for found in explained:
                choice.set_method(found.key, None)


def test_single_pixels_in_bfloat16() -> None:
    """Torch's slow convolution takes no gradients of such a batch where it is also channels-last."""
    input = torch.randn(2, 8, 1, 1, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(4, 8, 3, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    with use_backend("reference"):
        crossd_conv2d(input, weight, torch.randn(2, 3), padding=1).sum().backward()
    assert input.grad is not None and weight.grad is not None and weight.grad.isfinite().all()
