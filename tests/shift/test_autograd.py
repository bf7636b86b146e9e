"""Derivatives on every backend: by finite differences, and against those that autograd takes of torch.fft."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import crossd_ops
from crossd_ops import reference

KERNELS = [(3, 3, 3), (4, 4, 4), (1, 2, 3), (2, 5, 1)]
F64 = torch.float64

Shift = Callable[..., Tensor]


def leaves(kernel: tuple[int, ...], out_channels: int = 1) -> tuple[Tensor, Tensor]:
    weight = torch.randn(out_channels, 2, *kernel, dtype=F64, requires_grad=True)
    return weight, torch.randn(2, 3, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradients_of_the_whole_weight(backend: str, kernel: tuple[int, int, int]) -> None:
    assert torch.autograd.gradcheck(crossd_ops.fourier_shift, leaves(kernel), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(
        crossd_ops.fourier_shift, leaves(kernel), fast_mode=True, check_fwd_over_rev=True
    )


@pytest.mark.parametrize("dim, index", [(0, None), (1, 0), (2, -1)])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradients_of_a_slice(backend: str, kernel: tuple[int, int, int], dim: int, index: int | None) -> None:
    function = partial(crossd_ops.fourier_shift_slice, dim=dim, index=index)
    assert torch.autograd.gradcheck(function, leaves(kernel), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves(kernel), fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_gradients_of_one_input(backend: str, needs: tuple[bool, bool]) -> None:
    inputs = [tensor.requires_grad_(need) for tensor, need in zip(leaves((4, 3, 2)), needs, strict=True)]
    function = crossd_ops.fourier_shift_slice
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, check_fwd_over_rev=True)


def test_gradients_of_the_rotation(backend: str) -> None:
    weight, axis = leaves((3, 3, 3))
    angle = torch.randn(2, dtype=F64, requires_grad=True)
    for rotation in ("linear", "exact"):
        assert torch.autograd.gradcheck(
            lambda w, k, t, r=rotation: crossd_ops.fourier_shift_slice(w, crossd_ops.rotation_shift(k, t, rotation=r)),
            (weight, axis, angle),
            fast_mode=True,
        )


def test_second_derivatives_do_not_compute_or_return_what_is_not_needed(backend: str) -> None:
    weight, shift = leaves((3, 4, 3))
    out = crossd_ops.fourier_shift_slice(weight, shift.detach()).square().sum()
    (first,) = torch.autograd.grad(out, weight, create_graph=True)
    got = torch.autograd.grad(first.sum(), (weight, shift), allow_unused=True)
    assert got[0] is not None
    assert got[1] is None


def nested_gradients(function: Shift, kernel: tuple[int, ...], order: int) -> list[Tensor]:
    torch.manual_seed(1)
    inputs = leaves(kernel, out_channels=2)
    value = function(*inputs).sin().sum()
    collected = []
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        collected += gradients
        value = sum((gradient * torch.randn_like(gradient)).sum() for gradient in gradients)
    return [gradient.detach() for gradient in collected]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 3, 2)], ids=str)
def test_third_order(backend: str, kernel: tuple[int, int, int]) -> None:
    got = nested_gradients(crossd_ops.fourier_shift_slice, kernel, 3)
    torch.testing.assert_close(got, nested_gradients(reference.fourier_shift_slice, kernel, 3))


def strided_weights() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "permuted": lambda t: t.permute(1, 0, 4, 3, 2),
        "sliced": lambda t: t[:, 1:, :, ::2],
        "expanded": lambda t: t[:1].expand(4, -1, -1, -1, -1),
        "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
        "expanded kernel": lambda t: t[:, :, :, :1].expand(-1, -1, -1, 3, -1),
    }


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "strided", "transposed"])
@pytest.mark.parametrize("layout", strided_weights())
def test_gradients_with_any_strides(backend: str, layout: str, reduction: str, dtype: torch.dtype) -> None:
    weight = torch.randn(3, 4, 3, 5, 3, dtype=dtype, requires_grad=True)
    shift = torch.randn(3, 2, dtype=dtype, requires_grad=True)
    gradients = []
    for function in (crossd_ops.fourier_shift_slice, reference.fourier_shift_slice):
        out = function(strided_weights()[layout](weight), shift.mT, dim=1)
        if reduction == "sum":  # hands an expanded gradient, of stride 0, to the backward
            value = out.sum()
        else:
            value = (out[..., ::2] if reduction == "strided" else out.transpose(1, 4)).square().sum()
        gradients.append(torch.autograd.grad(value, (weight, shift)))
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype is F64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(*gradients, **tolerance)


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gradients_of_half_types(backend: str, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    weight = torch.randn(2, 3, 3, 3, 3).to(dtype).requires_grad_()
    shift = torch.randn(2, 3, requires_grad=True)
    out = crossd_ops.fourier_shift_slice(weight, shift, dtype=out_dtype)
    direction = torch.randn(out.shape).to(out_dtype)
    got = torch.autograd.grad(out, (weight, shift), direction, create_graph=True)
    assert (got[0].dtype, got[1].dtype) == (dtype, torch.float32)
    exact_inputs = weight.detach().double().requires_grad_(), shift.detach().double().requires_grad_()
    exact = torch.autograd.grad(
        reference.fourier_shift_slice(*exact_inputs), exact_inputs, direction.double(), create_graph=True
    )
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[0].double(), exact[0], rtol=eps, atol=max(eps / 8, 1e-5))
    torch.testing.assert_close(got[1].double(), exact[1], rtol=1e-4, atol=1e-4)
    (second,) = torch.autograd.grad(got[1].sum(), weight)
    (expected,) = torch.autograd.grad(exact[1].sum(), exact_inputs[0])
    assert second.dtype is dtype
    torch.testing.assert_close(second.double(), expected, rtol=eps, atol=max(eps / 4, 1e-4))


BOTH = (0, 1)
TRANSFORMS: dict[str, Callable[[Shift, Tensor, Tensor], object]] = {
    "grad": lambda f, w, s: grad(lambda w, s: f(w, s).sin().sum(), BOTH)(w, s),
    "jacrev": lambda f, w, s: jacrev(f, BOTH)(w, s),
    "jacfwd": lambda f, w, s: jacfwd(f, BOTH)(w, s),
    "hessian": lambda f, w, s: hessian(lambda w, s: f(w, s).sin().sum(), BOTH)(w, s),
    "hessian of shift": lambda f, w, s: hessian(lambda s: f(w, s).sin().sum())(s),
    "hessian of weight": lambda f, w, s: hessian(lambda w: f(w, s).sin().sum())(w),
    "jacrev of jacrev": lambda f, w, s: jacrev(jacrev(lambda s: f(w, s).sin().sum()))(s),
    "jacrev of jacfwd": lambda f, w, s: jacrev(jacfwd(lambda s: f(w, s).sin().sum()))(s),
    "jacfwd of linear grad": lambda f, w, s: jacfwd(grad(lambda w, s: f(w, s).sum(), BOTH), BOTH)(w, s),
    "third": lambda f, w, s: jacrev(jacfwd(jacrev(lambda s: f(w, s).sin().sum())))(s),
    "jvp": lambda f, w, s: jvp(f, (w, s), (w.cos(), s.cos())),
    "linearize": lambda f, w, s: linearize(f, w, s)[1](w.cos(), s.cos()),
    "vjp": lambda f, w, s: vjp(f, w, s)[1](f(w, s).cos()),
    "vmap weight": lambda f, w, s: vmap(f, (0, None))(torch.stack([w, 2 * w, w.cos()]), s),
    "vmap shift": lambda f, w, s: vmap(f, (None, 1))(w, torch.stack([s, 2 * s, s.cos()], 1)),
    "vmap both": lambda f, w, s: vmap(f, (-1, 0))(torch.stack([w, w.cos()], -1), torch.stack([s, s.cos()])),
    "vmap twice": lambda f, w, s: vmap(vmap(f, (0, None)), (None, 0))(torch.stack([w, w.cos()]), s[None].cos()),
    "gradient of each sample": lambda f, w, s: vmap(grad(lambda w, s: f(w, s[None]).sin().sum(), BOTH), (None, 0))(
        w, s
    ),
    "gradient of each weight": lambda f, w, s: vmap(grad(lambda w, s: f(w, s).sin().sum(), BOTH), (0, None))(
        torch.stack([w, w.cos()]), s
    ),
}


@pytest.mark.parametrize("kernel", [(3, 3, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_torch_func(backend: str, transform: str, kernel: tuple[int, int, int]) -> None:
    if backend == "emulated" and transform in ("linearize", "third"):
        pytest.skip("linearize traces operators of torch's dispatcher; third takes the emulator minutes")
    weight, shift = (tensor.detach() for tensor in leaves(kernel))
    got = TRANSFORMS[transform](crossd_ops.fourier_shift_slice, weight, shift)
    torch.testing.assert_close(got, TRANSFORMS[transform](reference.fourier_shift_slice, weight, shift))


NESTED = {
    "jvp of jvp": lambda f, w, s: jvp(lambda s: jvp(lambda s: f(w, s), (s,), (s.cos(),))[1], (s,), (s.sin(),))[1],
    "jacfwd of jacfwd": lambda f, w, s: jacfwd(jacfwd(lambda s: f(w, s).sin().sum()))(s),
    "jacfwd of jacfwd of jacrev": lambda f, w, s: jacfwd(jacfwd(jacrev(lambda s: f(w, s).sin().sum())))(s),
}


@pytest.mark.parametrize("transform", NESTED)
def test_forward_mode_over_forward_mode_is_not_silently_zero(backend: str, transform: str) -> None:
    """torch makes derivatives of an autograd Function zero here; nested reverse mode says what they are."""
    weight, shift = (tensor.detach() for tensor in leaves((3, 4, 3)))
    got = NESTED[transform](crossd_ops.fourier_shift_slice, weight, shift)
    if transform == "jvp of jvp":
        step = 1e-5 * shift.sin()
        ends = [
            jvp(lambda s: reference.fourier_shift_slice(weight, s), (moved,), (moved.cos(),))[1]
            for moved in (shift + step, shift - step)
        ]
        torch.testing.assert_close(got, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-6)
        return
    expected = jacrev(jacrev(lambda s: reference.fourier_shift_slice(weight, s).sin().sum()))
    torch.testing.assert_close(got, (jacrev(expected) if "jacrev" in transform else expected)(shift))


def test_gradient_under_nested_forward_mode_taken_outside_of_it(backend: str) -> None:
    weight, shift = (tensor.detach() for tensor in leaves((3, 4, 3)))
    results = []
    for function in (crossd_ops.fourier_shift_slice, reference.fourier_shift_slice):
        out, pull = vjp(partial(function, weight), shift)
        linear = jvp(lambda g, p=pull: jvp(lambda h: p(h.sin())[0], (g,), (g.cos(),))[1], (out,), (out,))[1]
        results.append(linear)
    torch.testing.assert_close(*results)
    assert results[0].abs().max() > 0.1


@pytest.mark.parametrize("grad_enabled", [True, False])
def test_forward_mode_without_requires_grad(backend: str, grad_enabled: bool) -> None:
    """No input requires a gradient, so a path that looks at that alone would drop the tangents."""
    weight, shift = (tensor.detach() for tensor in leaves((3, 4, 3)))
    tangents = []
    for function in (crossd_ops.fourier_shift_slice, reference.fourier_shift_slice):
        with forward_ad.dual_level(), torch.set_grad_enabled(grad_enabled):
            dual = function(forward_ad.make_dual(weight, weight.cos()), forward_ad.make_dual(shift, shift.sin()))
            tangents.append(forward_ad.unpack_dual(dual).tangent)
    torch.testing.assert_close(*tangents)
    assert tangents[0].abs().max() > 0.1


def test_batched_gradients(backend: str) -> None:
    if backend == "emulated":
        pytest.skip("is_grads_batched batches operators of torch's dispatcher")
    inputs = leaves((3, 3, 2))
    directions = torch.randn(4, 2, 1, 2, 3, 2, dtype=F64)
    gradients = [
        torch.autograd.grad(function(*inputs), inputs, directions, is_grads_batched=True)
        for function in (crossd_ops.fourier_shift_slice, reference.fourier_shift_slice)
    ]
    torch.testing.assert_close(*gradients)


def test_checkpointing(backend: str) -> None:
    from torch.utils.checkpoint import checkpoint

    inputs = leaves((3, 3, 3))
    value = checkpoint(crossd_ops.fourier_shift_slice, *inputs, use_reentrant=False).sin().sum()
    expected = reference.fourier_shift_slice(*inputs).sin().sum()
    torch.testing.assert_close(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs))


def test_backward_keeps_the_backend_of_its_forward(backend: str) -> None:
    inputs = leaves((3, 3, 3))
    value = crossd_ops.fourier_shift_slice(*inputs).sum()
    name = value.grad_fn.next_functions[0][0].name()
    assert ("_Shift" in name) == (backend != "reference")
    if backend != "reference":
        assert value.grad_fn.next_functions[0][0].backend == backend


def test_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        weight, shift = torch.randn(2, 2, 3, 3, 3), torch.randn(2, 3)
        got = crossd_ops.fourier_shift_slice(weight, shift)
        torch.testing.assert_close(got, reference.fourier_shift_slice(weight, shift))
    assert not got.requires_grad
