"""The whole layer, shift and convolution, as one step of autograd.

It keeps input, weight and shift alone. The kernels of each sample, B times as large as a plain convolution's, are built
anew in the backward pass, which costs one read of the weight and spares their memory between the two passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _backend
from ._autograd import shift_backward, shift_forward
from ._convolution import Geometry, convolve, convolve_backward
from ._transforms import transformed


def crossd_convolution(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    dim: int,
    index: int | None,
    geometry: Geometry,
    backend: str,
) -> Tensor:
    """y_b = conv(x_b, shifted weight of b) + bias; no `index`: the whole 3D weight. Kernels have the input's type."""
    compiling = torch.compiler.is_compiling()
    tensors = (input, weight, shift) if bias is None else (input, weight, shift, bias)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if compiling or (wanted and not transformed()):
        function: Any = _CrossDConvolution
        output: Tensor = function.apply(input, weight, shift, bias, dim, index, *geometry, backend)
        return output
    # torch.func and forward mode differentiate the two steps, each of which knows every derivative.
    kernels = shift_forward(weight, shift, dim, index, input.dtype, backend)
    return convolve(input, kernels, bias, geometry)


class _CrossDConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        input, weight, shift, bias, ctx.dim, ctx.index, *geometry, ctx.backend = inputs
        ctx.geometry = Geometry(*geometry)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, shift)
        kernels = _backend.operators(ctx.backend).fourier_shift(weight, shift, ctx.dim, ctx.index, input.dtype)
        return convolve(input, kernels, bias, ctx.geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 11
        input, weight, shift = ctx.saved_tensors
        need_input, need_weight, need_shift, need_bias = ctx.needs_input_grad[:4]
        grad_weight: Tensor | None = None
        grad_shift: Tensor | None = None
        # Only their shape is looked at where the input needs no gradient, but every library call wants them.
        kernels = shift_forward(weight, shift, ctx.dim, ctx.index, input.dtype, ctx.backend)
        grad_input, grad_kernels = convolve_backward(
            grad, input, kernels, ctx.geometry, need_input, need_weight or need_shift
        )
        del kernels
        if grad_kernels is not None:
            gradients = shift_backward(
                grad_kernels, weight, shift, ctx.dim, ctx.index, need_weight, need_shift, ctx.backend
            )
            grad_weight, grad_shift = (
                gradient if need else None for gradient, need in zip(gradients, (need_weight, need_shift), strict=True)
            )
        grad_bias = grad.sum([0, *range(2, grad.dim())]) if need_bias else None
        return grad_input, grad_weight, grad_shift, grad_bias, *(None,) * 7
