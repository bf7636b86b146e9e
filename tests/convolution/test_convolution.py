"""The per-sample convolution, 2D and 3D: every method, every derivative, and what is kept between the passes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossd_ops import crossd_conv2d, crossd_conv3d, reference, use_backend
from crossd_ops.operators import convolution


def tensors(
    axes: int,
    groups: int = 1,
    *,
    dtype: torch.dtype = torch.float64,
    samples: int = 3,
    channels: int = 4,
    sizes: tuple[int, ...] = (6, 7, 5),
) -> list[Tensor]:
    """Input, weight, shift and bias, all with gradient."""
    generator = torch.Generator().manual_seed(axes)
    shapes = [(samples, channels, *sizes[:axes]), (6, channels // groups, 3, 3, 2), (samples, 3), (6,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def expected(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *numbers: object) -> Tensor:
    """One library convolution for each sample, with kernels from torch.fft."""
    if input.dim() == 4:
        kernels, convolution = reference.fourier_shift_slice(weight, shift), F.conv2d
    else:
        kernels, convolution = reference.fourier_shift(weight, shift), F.conv3d
    return torch.cat(
        [convolution(row[None], kernel, bias, *numbers) for row, kernel in zip(input, kernels, strict=True)]
    )


# Sizes that lead to each way to convolve (csrc/convolution/problem.h): next to nothing to do, little, few channels,
# none of these. test_convolution_methods.py has every method convolve the first two.
METHODS = {"small": (4, (6, 7)), "matrix": (4, (48, 47)), "loop": (4, (182, 181)), "grouped": (16, (48, 47))}
EVERY_METHOD = pytest.mark.parametrize("channels, pixels", METHODS.values(), ids=METHODS)


def assert_equal_to_one_convolution_for_each_sample(
    arguments: list[Tensor], numbers: tuple[object, ...], atol: float = 1e-11
) -> None:
    convolution = crossd_conv2d if arguments[0].dim() == 4 else crossd_conv3d
    ours, theirs = convolution(*arguments, *numbers), expected(*arguments, *numbers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    grad = torch.randn_like(theirs)
    found = torch.autograd.grad(ours, arguments, grad)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, arguments, grad), rtol=1e-11, atol=10 * atol)


@EVERY_METHOD
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("numbers", [(1, 0, 1), ((2, 1), (1, 2), (1, 2)), (1, "same", 1), (1, "valid", 2)])
def test_each_method_equals_one_convolution_for_each_sample(
    channels: int, pixels: tuple[int, int], numbers: tuple[object, ...], groups: int
) -> None:
    arguments = tensors(2, groups, channels=channels, sizes=pixels)
    assert_equal_to_one_convolution_for_each_sample(arguments, (*numbers, groups))


@pytest.mark.parametrize("stride", [1, 2**20])
def test_borders_may_be_larger_than_any_memory(stride: int) -> None:
    assert_equal_to_one_convolution_for_each_sample(tensors(2), (stride, 2**20, (2**20, 2**21)))


@pytest.mark.parametrize("channels, sizes", [(4, (6, 7, 5)), (4, (27, 28, 26)), (16, (13, 14, 12))])
@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), ((2, 1, 1), "valid", (1, 1, 1), 2), (1, "same", 1, 1)])
def test_volumes(channels: int, sizes: tuple[int, ...], numbers: tuple[object, ...]) -> None:
    arguments = tensors(3, numbers[3], channels=channels, sizes=sizes)
    assert_equal_to_one_convolution_for_each_sample(arguments, numbers)


@EVERY_METHOD
@pytest.mark.parametrize("samples, groups", [(1, 1), (2, 1), (2, 2)])
def test_layouts_of_input_and_gradient(channels: int, pixels: tuple[int, int], samples: int, groups: int) -> None:
    """Channels-last, a part of larger tensors, expanded over samples, channels or pixels; weight and shift strided."""
    input, weight, shift, bias = (tensor.detach() for tensor in tensors(2, groups, channels=channels, sizes=pixels))
    numbers = 1, 1, 1, groups
    input, shift = input[:samples], shift[:samples]
    larger = torch.zeros(samples, channels + 3, pixels[0] + 2, pixels[1] + 1, dtype=input.dtype)
    larger[:, 2:-1, 1:-1, :-1] = input
    inputs = [
        input,
        input.contiguous(memory_format=torch.channels_last),
        larger[:, 2:-1, 1:-1, :-1],
        input[:1].expand(samples, -1, -1, -1),
        input[:, :1].expand(-1, channels, -1, -1),
        input.transpose(2, 3).contiguous().transpose(2, 3),
    ]
    strided = weight.permute(2, 0, 3, 4, 1).contiguous().permute(1, 4, 0, 2, 3), shift.T.contiguous().T
    for x in inputs:
        arguments = [x.detach().requires_grad_(), *(item.detach().requires_grad_() for item in (*strided, bias))]
        ours, theirs = crossd_conv2d(*arguments, *numbers), expected(*arguments, *numbers)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        dense = torch.randn_like(theirs)
        apart = torch.zeros(samples, 9, *theirs.shape[2:], dtype=theirs.dtype)
        apart[:, 2:8] = dense
        grads = [
            apart[:, 2:8],
            dense.contiguous(memory_format=torch.channels_last),
            dense[:1, :1, :1, :1].expand_as(dense),
        ]
        for grad in (*grads, dense[..., :1].expand_as(dense), dense[:, :1].expand_as(dense)):
            found = torch.autograd.grad(ours, arguments, grad, retain_graph=True)
            wanted = torch.autograd.grad(theirs, arguments, grad, retain_graph=True)
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-10)


@EVERY_METHOD
def test_second_derivatives(channels: int, pixels: tuple[int, int]) -> None:
    arguments = [tensor[:2].detach().requires_grad_() for tensor in tensors(2, channels=channels, sizes=pixels)]
    convolution = lambda *a: crossd_conv2d(*a, 2, 1)  # noqa: E731
    assert torch.autograd.gradcheck(convolution, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolution, arguments, fast_mode=True)


def test_every_entry_of_the_second_derivatives() -> None:
    few = [tensor[:2].detach() for tensor in tensors(2, channels=2, sizes=(3, 4))]
    arguments = [tensor.clone().requires_grad_() for tensor in few]
    assert torch.autograd.gradgradcheck(lambda *a: crossd_conv2d(*a, 2, 1), arguments)


def test_function_transforms_agree_with_autograd() -> None:
    arguments = tensors(2)
    loss = lambda *a: crossd_conv2d(*a, 1, 1).sin().sum()  # noqa: E731
    wanted = torch.autograd.grad(loss(*arguments), arguments)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1, 2, 3))(*arguments), wanted)
    tangents = tuple(torch.randn_like(tensor) for tensor in arguments)
    _, tangent = torch.func.jvp(loss, tuple(a.detach() for a in arguments), tangents)
    torch.testing.assert_close(tangent, sum((g * t).sum() for g, t in zip(wanted, tangents, strict=True)))


@pytest.mark.parametrize("axes", [2, 3])
def test_only_input_weight_and_shift_are_kept(axes: int) -> None:
    arguments = tensors(axes)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        (crossd_conv2d if axes == 2 else crossd_conv3d)(*arguments)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in arguments[:3]}


@EVERY_METHOD
def test_gradients_that_nobody_needs_are_not_computed(
    channels: int, pixels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, ...]] = []
    original = convolution._eager_backward
    monkeypatch.setattr(convolution, "_eager_backward", lambda *a: asked.append(a[-3:]) or original(*a))
    every = tensors(2, channels=channels, sizes=pixels)
    wanted = torch.autograd.grad(crossd_conv2d(*every).sum(), every)
    for needs in itertools.product([True, False], repeat=4):
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(every, needs, strict=True)]
        asked.clear()
        if any(needs):
            crossd_conv2d(*inputs).sum().backward()
        assert asked == [needs[:3]] * any(needs[:3])
        for tensor, need, gradient in zip(inputs, needs, wanted, strict=True):
            assert (tensor.grad is not None) == need
            if need:
                torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.usefixtures("compiled_library")
@EVERY_METHOD
def test_a_gradient_that_is_not_needed_is_empty(channels: int, pixels: tuple[int, int]) -> None:
    input, weight, shift, _ = (tensor.detach() for tensor in tensors(2, channels=channels, sizes=pixels))
    place = 1, 1, 1, 1, 1, 1, 1, 0, 1
    operators = torch.ops.crossd_ops
    grad = torch.ones_like(operators.convolution(input, weight, shift, None, place))
    for needs in itertools.product([True, False], repeat=3):
        found = operators.convolution_backward(grad, input, weight, shift, place, *needs)
        sizes = [tensor.shape if need else (0,) for tensor, need in zip((input, weight, shift), needs, strict=True)]
        assert [tensor.shape for tensor in found] == sizes


def test_an_empty_batch_has_gradients_of_zero() -> None:
    arguments = tensors(2, samples=0)
    output = crossd_conv2d(*arguments, 1, 1)
    assert output.shape == (0, 6, 6, 8)
    output.sum().backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in arguments)


def test_autocast_builds_kernels_in_its_type_from_float32_masters() -> None:
    arguments = tensors(2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = crossd_conv2d(*arguments, 1, 1)
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert all(tensor.grad.dtype is torch.float32 for tensor in arguments)
    torch.testing.assert_close(output.float(), crossd_conv2d(*arguments, 1, 1), rtol=0.05, atol=0.1)


def test_bad_arguments_are_named() -> None:
    input, weight, shift, bias = tensors(2)
    with pytest.raises(TypeError, match=r"input: expected the dtype of weight \(torch.float64\), got torch.float32"):
        crossd_conv2d(input.float(), weight, shift)
    with pytest.raises(ValueError, match=r"input: expected \(B, C, D, H, W\), got \(3, 4, 6, 7\)"):
        crossd_conv3d(input, weight, shift)
    with pytest.raises(ValueError, match=r"stride: expected one int or 2, each at least 1, got \(1, 2, 3\)"):
        crossd_conv2d(input, weight, shift, bias, (1, 2, 3))
    with pytest.raises(
        ValueError, match=r"padding: expected numbers, 'valid', or 'same' \(stride 1\), got 'same' \(stride 2\)"
    ):
        crossd_conv2d(input, weight, shift, bias, 2, "same")


@pytest.mark.parametrize("value", [2**31, 2**62, 2**63 - 1, 2**64])
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_sizes_beyond_any_memory_are_refused(backend: str, name: str, value: int) -> None:
    """torch's own convolution computes sizes that wrap around from such numbers, and may crash."""
    input, weight, shift, bias = tensors(2)
    with pytest.raises(ValueError, match=rf"{name}: expected ints below 2\*\*31, got {value}"):
        crossd_conv2d(input, weight, shift, bias, **{name: value})


def test_the_reference_backend_convolves_as_published() -> None:
    arguments = tensors(2)
    with use_backend("reference"):
        output = crossd_conv2d(*arguments, 1, 1)
    torch.testing.assert_close(output, expected(*arguments, 1, 1), rtol=0, atol=1e-12)
