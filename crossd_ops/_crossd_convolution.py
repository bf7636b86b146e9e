"""The whole layer, shift and convolution, as one step of autograd.

It keeps input, weight and shift alone. The kernels of each sample, B times as large as a plain convolution's, are built
anew in the backward pass, which costs one read of the weight and spares their memory between the two passes. Where they
are large, on a CPU and without groups, they never exist all at once: the kernels of some output channels are built and
used while they are in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend
from ._autograd import shift_backward, shift_forward
from ._convolution import ConvolutionGradients, convolve, convolve_backward
from ._plan import Plan
from ._transforms import transformed


def crossd_convolution(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, plan: Plan, backend: str
) -> Tensor:
    """y_b = conv(x_b, shifted weight of b) + bias, of tensors that have the types of the plan."""
    if transformed():
        # torch.func and forward mode differentiate the two steps, each of which knows every derivative.
        return two_steps(input, weight, shift, bias, plan, backend)
    if torch.is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or shift.requires_grad or (bias is not None and bias.requires_grad)
    ):
        function: Any = _CrossDConvolution
        output: Tensor = function.apply(input, weight, shift, bias, plan, backend)
        return output
    return forward(input, weight, shift, bias, plan, backend)


def two_steps(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, plan: Plan, backend: str) -> Tensor:
    """The kernels of all samples, then their convolution."""
    kernels = shift_forward(weight, shift, plan.dim, plan.position, plan.dtype, backend)
    return convolve(input, kernels, bias, plan.geometry)


# Kernels of more bytes than this are made in blocks. Beyond 32 MB glibc's malloc gives memory back at every free, and
# faults in page after page cost more than the convolution of 512 channels of 7x7 pixels itself.
_BLOCK_BYTES = 16 << 20
_FEWEST_ROWS = 32  # a thinner matrix product is a slow one


def _blocks(weight: Tensor, plan: Plan) -> list[slice]:
    """Output channels whose kernels are to exist at the same time."""
    rows = weight.shape[0]
    if plan.kernel_bytes <= _BLOCK_BYTES or plan.geometry.groups > 1 or plan.device_type != "cpu":
        return [slice(0, rows)]
    step = max(_FEWEST_ROWS, -(-rows // -(-plan.kernel_bytes // _BLOCK_BYTES)))
    return [slice(first, first + step) for first in range(0, rows, step)]


def forward(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, plan: Plan, backend: str) -> Tensor:
    """The convolution, without a graph."""
    blocks = _blocks(weight, plan)
    build = _backend.operators(backend).fourier_shift
    if len(blocks) == 1:
        return convolve(input, build(weight, shift, plan.dim, plan.position, plan.dtype), bias, plan.geometry)
    outputs = []
    for rows in blocks:
        kernels = build(weight[rows], shift, plan.dim, plan.position, plan.dtype)
        outputs.append(convolve(input, kernels, None if bias is None else bias[rows], plan.geometry))
    return torch.cat(outputs, 1)


class _CrossDConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        input, weight, shift, _, ctx.plan, ctx.backend = inputs
        ctx.save_for_backward(input, weight, shift)
        # Autograd lets nobody change in place what is a view made in here, and the ReLU after a layer often does.
        return forward(*inputs).data

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *needs, need_bias = ctx.needs_input_grad[:4]
        input, weight, shift = ctx.saved_tensors
        found = gradients(grad, input, weight, shift, ctx.plan, needs, ctx.backend)
        return *found, grad_of_bias(grad) if need_bias else None, None, None


def grad_of_bias(grad: Tensor) -> Tensor:
    """(B, O, ...) -> (O,)"""
    return grad.sum([0, *range(2, grad.dim())])


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of input, weight and shift


def gradients(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, plan: Plan, needs: Sequence[bool], backend: str
) -> Gradients:
    """Gradients of `forward`, differentiable; None for one that is not needed."""
    blocks = _blocks(weight, plan)
    # Blocks are added up in place: not where these gradients will be differentiated.
    if len(blocks) > 1 and not torch.is_grad_enabled():
        return _gradients_of_blocks(grad, input, weight, shift, plan, needs, backend, blocks)
    need_input, need_weight, need_shift = needs
    # Only their shape is looked at where the input needs no gradient, but every library call wants them.
    kernels = shift_forward(weight, shift, plan.dim, plan.position, plan.dtype, backend)
    grad_input, grad_kernels = convolve_backward(
        grad, input, kernels, plan.geometry, need_input, need_weight or need_shift
    )
    del kernels
    if grad_kernels is None:
        return grad_input, None, None
    grad_weight, grad_shift = shift_backward(
        grad_kernels, weight, shift, plan.dim, plan.position, need_weight, need_shift, backend
    )
    return grad_input, grad_weight if need_weight else None, grad_shift if need_shift else None


def _gradients_of_blocks(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    plan: Plan,
    needs: Sequence[bool],
    backend: str,
    blocks: Sequence[slice],
) -> Gradients:
    need_input, need_weight, need_shift = needs
    operators = _backend.operators(backend)
    of_convolution = ConvolutionGradients(input, plan.geometry, need_input, need_weight or need_shift)
    grad_weight = torch.empty_like(weight) if need_weight else None
    grad_shift: Tensor | None = None
    for rows in blocks:
        kernels = operators.fourier_shift(weight[rows], shift, plan.dim, plan.position, plan.dtype)
        grad_kernels = of_convolution.add(grad[:, rows], kernels)
        del kernels
        if grad_kernels is None:
            continue
        of_weight, of_shift = operators.fourier_shift_backward(
            grad_kernels, weight[rows], shift, plan.dim, plan.position, need_weight, need_shift
        )
        if grad_weight is not None:
            grad_weight[rows] = of_weight
        if need_shift:
            grad_shift = of_shift if grad_shift is None else grad_shift.add_(of_shift)
    return of_convolution.grad_input(), grad_weight, grad_shift
