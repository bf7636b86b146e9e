"""Derivatives of the shift, of every order, around operators that have none of their own.

With the translation M(s), a linear map of the weight:

    forward    F(W, s)    = M(s) W
    backward   V(g, W, s) = ( M(s)^T g,  < g, dM(s)/ds_d W > for each axis d )

The derivative of a translation is a translation of the derivative, so the derivatives of V are made of F and V again,
at shifts moved by u, of weights that a circulant matrix C was applied to along one axis (see spectral.py):

    J(W, s, h) = sum_d h_d dM(s)/ds_d W = sum_d h_d sum_(C, u of axis d) M(s + u) C W

The autograd Functions stand outside of torch's dispatcher: torch.library.register_autograd neither supports torch.func
nor forward-mode derivatives, which it makes silently zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import backends
from .checks import accumulate_dtype
from .context import apply_of, nested_forward_mode, transformed
from .spectral import circulant, derivative_terms, moved, per_sample, transposed


def shift_forward(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype, backend: str
) -> Tensor:
    """F(W, s), differentiable: the whole weight of each sample, or the slice at `index` of spatial axis `dim`."""
    apply = _apply_shift
    if torch.compiler.is_compiling():
        apply = _Shift.apply
    elif transformed():
        if nested_forward_mode():
            return shift_reference(weight, shift, dim, index, dtype)
        apply = _ShiftTransformed.apply
    elif not (torch.is_grad_enabled() and (weight.requires_grad or shift.requires_grad)):
        return backends.operators(backend).fourier_shift(weight, shift, dim, index, dtype)
    out: Tensor = apply(weight, shift, dim, index, dtype, backend)
    return out


def shift_backward(
    grad: Tensor,
    weight: Tensor,
    shift: Tensor,
    dim: int,
    index: int | None,
    need_weight: bool,
    need_shift: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """V(g, W, s), differentiable; a gradient that is not needed is not computed, and empty."""
    arguments = (grad, weight, shift, dim, index, need_weight, need_shift)
    apply = _apply_shift_backward
    if torch.compiler.is_compiling():
        apply = _ShiftBackward.apply
    elif transformed():
        if nested_forward_mode():
            vjp = torch.func.vjp(lambda w, s: shift_reference(w, s, dim, index, grad.dtype), weight, shift)[1]
            grad_weight, grad_shift = vjp(grad)
            return grad_weight, grad_shift
        apply = _ShiftBackwardTransformed.apply
    elif not (torch.is_grad_enabled() and (grad.requires_grad or weight.requires_grad or shift.requires_grad)):
        return backends.operators(backend).fourier_shift_backward(*arguments)
    grads: tuple[Tensor, Tensor] = apply(*arguments, backend)
    return grads


def shift_reference(weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype) -> Tensor:
    """F(W, s) by torch.fft, which torch differentiates itself."""
    if index is None:
        return reference.fourier_shift(weight, shift, dtype=dtype)
    return reference.fourier_shift_slice(weight, shift, dim=dim, index=index, dtype=dtype)


def _save_shift(ctx: Any, inputs: tuple[Any, ...]) -> None:
    weight, shift, ctx.dim, ctx.index, ctx.dtype, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, shift)


def _save_shift_backward(ctx: Any, inputs: tuple[Any, ...]) -> None:
    grad, weight, shift, ctx.dim, ctx.index, ctx.need_weight, ctx.need_shift, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, weight, shift)


# Without setup_context: where there is one, torch binds the signature anew at every call, which takes three times as
# long as all the rest. Without jvp: torch.compile does not trace a Function that has one.
class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save_shift(ctx, inputs)
        *arguments, backend = inputs
        return backends.operators(backend).fourier_shift(*arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        weight, shift = ctx.saved_tensors
        need_weight, need_shift = ctx.needs_input_grad[:2]
        grad_weight, grad_shift = shift_backward(
            grad, weight, shift, ctx.dim, ctx.index, need_weight, need_shift, ctx.backend
        )
        return grad_weight if need_weight else None, grad_shift if need_shift else None, None, None, None, None


class _ShiftBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        _save_shift_backward(ctx, inputs)
        *arguments, backend = inputs
        return backends.operators(backend).fourier_shift_backward(*arguments)

    @staticmethod
    def backward(ctx: Any, h_weight: Tensor | None, h_shift: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, weight, shift = ctx.saved_tensors
        need_grad, need_weight, need_shift = ctx.needs_input_grad[:3]
        place = _Place(ctx.dim, ctx.index, ctx.backend)
        of_grad: Tensor | None = None
        of_weight: Tensor | None = None
        of_shift: Tensor | None = None
        if h_weight is not None and ctx.need_weight:
            if need_grad:
                of_grad = place.forward(h_weight, shift, accumulate_dtype(weight.dtype))
            if need_shift:
                of_shift = place.backward(grad, h_weight, shift, False, True)[1]
        if h_shift is not None and ctx.need_shift:
            if need_grad:
                of_grad = _add(of_grad, _jacobian(weight, shift, h_shift, place))
            if need_weight or need_shift:
                needs = need_weight, need_shift
                of_weight, second = _jacobian_adjoint(grad, weight, shift, h_shift, needs, place)
                of_shift = _add(of_shift, second)
        return _to(of_grad, grad.dtype), _to(of_weight, weight.dtype), of_shift, None, None, None, None, None


_apply_shift, _apply_shift_backward = apply_of(_Shift), apply_of(_ShiftBackward)


class _ShiftTransformed(torch.autograd.Function):
    """`_Shift` for torch.func and forward-mode derivatives."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        *arguments, backend = inputs
        return backends.operators(backend).fourier_shift(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_shift(ctx, inputs)
        ctx.save_for_forward(*inputs[:2])

    backward = _Shift.backward

    @staticmethod
    def jvp(ctx: Any, d_weight: Tensor | None, d_shift: Tensor | None, *_: None) -> Tensor | None:
        weight, shift = ctx.saved_tensors
        place = _Place(ctx.dim, ctx.index, ctx.backend)
        out: Tensor | None = None
        if d_weight is not None:
            out = place.forward(d_weight, shift, accumulate_dtype(weight.dtype))
        if d_shift is not None:
            out = _add(out, _jacobian(weight, shift, d_shift, place))
        return _to(out, ctx.dtype)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], weight: Tensor, shift: Tensor, *arguments: Any
    ) -> tuple[Tensor, int]:
        weight_dim, shift_dim = in_dims[:2]
        if weight_dim is None and shift_dim is not None:
            samples = shift.movedim(shift_dim, 0)
            return torch.unflatten(shift_forward(weight, samples.flatten(0, 1), *arguments), 0, samples.shape[:2]), 0
        if shift_dim is None and weight_dim is not None:
            weights = weight.movedim(weight_dim, 0)
            return torch.unflatten(shift_forward(weights.flatten(0, 1), shift, *arguments), 1, weights.shape[:2]), 1
        pairs = zip(weight.unbind(weight_dim or 0), shift.unbind(shift_dim or 0), strict=True)
        return torch.stack([shift_forward(*pair, *arguments) for pair in pairs]), 0


class _ShiftBackwardTransformed(torch.autograd.Function):
    """`_ShiftBackward` for torch.func and forward-mode derivatives."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        *arguments, backend = inputs
        return backends.operators(backend).fourier_shift_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _save_shift_backward(ctx, inputs)
        ctx.save_for_forward(*inputs[:3])

    backward = _ShiftBackward.backward

    @staticmethod
    def jvp(
        ctx: Any, d_grad: Tensor | None, d_weight: Tensor | None, d_shift: Tensor | None, *_: None
    ) -> tuple[Tensor, Tensor]:
        grad, weight, shift = ctx.saved_tensors
        needs = ctx.need_weight, ctx.need_shift
        place = _Place(ctx.dim, ctx.index, ctx.backend)
        of_weight: Tensor | None = None
        of_shift: Tensor | None = None
        if d_grad is not None:
            of_weight, of_shift = place.backward(d_grad, weight, shift, *needs)
        if d_weight is not None and ctx.need_shift:
            of_shift = _add(of_shift, place.backward(grad, d_weight, shift, False, True)[1])
        if d_shift is not None:
            # V is the gradient of < g, F(W, s) >: its derivative in s is the gradient of < g, J(W, s, ds) >.
            second_weight, second_shift = _jacobian_adjoint(grad, weight, shift, d_shift, needs, place)
            of_weight, of_shift = _add(of_weight, second_weight), _add(of_shift, second_shift)
        # torch takes no None here. An output that is not needed is empty, and so is its tangent.
        if of_weight is None:
            of_weight = torch.zeros_like(weight) if ctx.need_weight else weight.new_zeros(0)
        if of_shift is None:
            of_shift = torch.zeros_like(shift) if ctx.need_shift else shift.new_zeros(0)
        return of_weight.to(weight.dtype), of_shift

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], grad: Tensor, weight: Tensor, shift: Tensor, *arguments: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        # Sums over samples and over channels, one for each gradient: no folding of the batch into either serves both.
        columns = [
            [tensor] * info.batch_size if batch_dim is None else tensor.unbind(batch_dim)
            for tensor, batch_dim in zip((grad, weight, shift), in_dims[:3], strict=True)
        ]
        results = [shift_backward(g, w, s, *arguments) for g, w, s in zip(*columns, strict=True)]
        grad_weights, grad_shifts = zip(*results, strict=True)
        return (torch.stack(grad_weights), torch.stack(grad_shifts)), (0, 0)


@dataclass(frozen=True)
class _Place:
    """Which part of the shifted weight an operator sees, and where it runs."""

    dim: int
    index: int | None
    backend: str

    def forward(self, weight: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        return shift_forward(weight, shift, self.dim, self.index, dtype, self.backend)

    def backward(
        self, grad: Tensor, weight: Tensor, shift: Tensor, need_weight: bool, need_shift: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        grads = shift_backward(grad, weight, shift, self.dim, self.index, need_weight, need_shift, self.backend)
        return grads[0] if need_weight else None, grads[1] if need_shift else None


def _jacobian(weight: Tensor, shift: Tensor, h_shift: Tensor, place: _Place) -> Tensor:
    """J(W, s, h) = sum_d h_d dM(s)/ds_d W, in the type of accumulation."""
    weight = weight.to(accumulate_dtype(weight.dtype))
    total: Tensor | None = None
    for axis in range(3):
        for taps, offset in derivative_terms(weight.shape[2 + axis]):
            term = place.forward(circulant(weight, taps, 2 + axis), moved(shift, axis, offset), weight.dtype)
            total = _add(total, per_sample(h_shift, axis, term) * term)
    assert total is not None
    return total


def _jacobian_adjoint(
    grad: Tensor, weight: Tensor, shift: Tensor, h_shift: Tensor, needs: tuple[bool, bool], place: _Place
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of < g, J(W, s, h) > in W and s: those of < h_d g, M(s') C W > for each circulant C of J."""
    weight = weight.to(accumulate_dtype(weight.dtype))
    of_weight: Tensor | None = None
    of_shift: Tensor | None = None
    for axis in range(3):
        scaled = per_sample(h_shift, axis, grad) * grad
        for taps, offset in derivative_terms(weight.shape[2 + axis]):
            term_weight, term_shift = place.backward(
                scaled, circulant(weight, taps, 2 + axis), moved(shift, axis, offset), *needs
            )
            if term_weight is not None:
                of_weight = _add(of_weight, circulant(term_weight, transposed(taps), 2 + axis))
            of_shift = _add(of_shift, term_shift)
    return of_weight, of_shift


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    if total is None or term is None:
        return term if total is None else total
    return total + term


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor if tensor is None else tensor.to(dtype)
