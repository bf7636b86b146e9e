"""The per-sample convolution, 2D and 3D: every method, every derivative, and what is kept between the passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossd_ops import _convolution, crossd_conv2d, crossd_conv3d, reference, use_backend


def tensors(axes: int, groups: int = 1, *, dtype: torch.dtype = torch.float64, samples: int = 3) -> list[Tensor]:
    """Input, weight, shift and bias, all with gradient."""
    generator = torch.Generator().manual_seed(axes)
    sizes = [(samples, 4, *(6, 7, 5)[:axes]), (6, 4 // groups, 3, 3, 2), (samples, 3), (6,)]
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def expected(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *numbers: object) -> Tensor:
    """One library convolution for each sample, with kernels from torch.fft."""
    if input.dim() == 4:
        kernels, convolution = reference.fourier_shift_slice(weight, shift), F.conv2d
    else:
        kernels, convolution = reference.fourier_shift(weight, shift), F.conv3d
    return torch.cat(
        [convolution(row[None], kernel, bias, *numbers) for row, kernel in zip(input, kernels, strict=True)]
    )


@pytest.fixture(params=["grouped", "loop", "matrix"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one way to convolve."""
    monkeypatch.setattr(_convolution, "method", lambda *_, **__: request.param)
    return request.param


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("numbers", [(1, 0, 1), ((2, 1), (1, 2), (1, 2)), (1, "same", 1), (1, "valid", 2)])
def test_each_method_equals_one_convolution_for_each_sample(
    method: str, numbers: tuple[object, ...], groups: int
) -> None:
    arguments = tensors(2, groups)
    ours, theirs = crossd_conv2d(*arguments, *numbers, groups), expected(*arguments, *numbers, groups)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    grad = torch.randn_like(theirs)
    for mine, wanted in zip(
        torch.autograd.grad(ours, arguments, grad), torch.autograd.grad(theirs, arguments, grad), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("forced", ["grouped", "loop"])
@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), ((2, 1, 1), "valid", (1, 2, 1), 2), (1, "same", 1, 1)])
def test_volumes(forced: str, numbers: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convolution, "method", lambda *_, **__: forced)
    arguments = tensors(3, numbers[3])
    ours, theirs = crossd_conv3d(*arguments, *numbers), expected(*arguments, *numbers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, wanted in zip(
        torch.autograd.grad(ours.square().sum(), arguments),
        torch.autograd.grad(theirs.square().sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def test_second_derivatives(method: str) -> None:
    arguments = [tensor[:2].detach().requires_grad_() for tensor in tensors(2)]
    assert torch.autograd.gradcheck(lambda *a: crossd_conv2d(*a, 2, 1), arguments)
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


def test_gradients_that_nobody_needs_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    input, weight, shift, _ = tensors(2)
    masks = []
    original = _convolution._library_backward
    monkeypatch.setattr(_convolution, "method", lambda *_, **__: "grouped")
    monkeypatch.setattr(_convolution, "_library_backward", lambda *a: masks.append(a[-2:]) or original(*a))
    for needs, mask in [
        ((True, False, False), (True, False)),
        ((False, True, False), (False, True)),
        ((False, False, True), (False, True)),
    ]:
        inputs = [
            tensor.detach().requires_grad_(need) for tensor, need in zip((input, weight, shift), needs, strict=True)
        ]
        crossd_conv2d(*inputs).sum().backward()
        assert masks.pop() == mask
        assert [tensor.grad is not None for tensor in inputs] == list(needs)


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


def test_the_reference_backend_convolves_as_published() -> None:
    arguments = tensors(2)
    with use_backend("reference"):
        output = crossd_conv2d(*arguments, 1, 1)
    torch.testing.assert_close(output, expected(*arguments, 1, 1), rtol=0, atol=1e-12)
