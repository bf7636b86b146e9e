"""The whole layer, shift and convolution, as one step of autograd.

It keeps input, weight and shift alone. The kernels of each sample, B times as large as a plain convolution's, are built
anew in the backward pass, which costs one read of the weight and spares their memory between the two passes. Where they
are large, on a CPU and without groups, they never exist all at once: the kernels of some output channels are built and
used while they are in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _backend
from ._autograd import shift_backward, shift_forward
from ._convolution import ConvolutionGradients, Geometry, convolve, convolve_backward, output_sizes
from ._transforms import transformed


class _Plan(NamedTuple):
    """All that is no tensor. `dim` and `position` say which slice of the weight; no position: the whole weight."""

    dim: int
    position: int | None
    geometry: Geometry
    backend: str


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
    if not compiling and transformed():
        # torch.func and forward mode differentiate the two steps, each of which knows every derivative.
        return convolve(input, shift_forward(weight, shift, dim, index, input.dtype, backend), bias, geometry)
    tensors = (input, weight, shift) if bias is None else (input, weight, shift, bias)
    if compiling or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        function: Any = _CrossDConvolution
        output: Tensor = function.apply(input, weight, shift, bias, dim, index, *geometry, backend)
        return output
    return _forward(input, weight, shift, bias, _Plan(dim, index, geometry, backend))


# Kernels of more bytes than this are made in blocks. Beyond 32 MB glibc's malloc gives memory back at every free, and
# faults in page after page cost more than the convolution of 512 channels of 7x7 pixels itself.
_BLOCK_BYTES = 16 << 20
_FEWEST_ROWS = 32  # a thinner matrix product is a slow one


def _blocks(input: Tensor, weight: Tensor, plan: _Plan) -> list[slice]:
    """Output channels whose kernels are to exist at the same time."""
    rows = weight.shape[0]
    # The size of the batch is asked last: of an exported program it would be a constraint.
    if plan.geometry.groups > 1 or input.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, rows)]
    if weight.numel() * input.shape[0] * input.element_size() <= _BLOCK_BYTES:  # seen without more arithmetic
        return [slice(0, rows)]
    elements = weight[:1].numel() // (1 if plan.position is None else weight.shape[2 + plan.dim])
    count = -(-input.shape[0] * rows * elements * input.element_size() // _BLOCK_BYTES)
    step = max(_FEWEST_ROWS, -(-rows // max(count, 1)))
    return [slice(first, first + step) for first in range(0, rows, step)]


def _forward(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
    dim, index, geometry, backend = plan
    blocks = _blocks(input, weight, plan)
    build = _backend.operators(backend).fourier_shift
    if len(blocks) == 1:
        return convolve(input, build(weight, shift, dim, index, input.dtype), bias, geometry)
    outputs = []
    for rows in blocks:
        kernels = build(weight[rows], shift, dim, index, input.dtype)
        outputs.append(convolve(input, kernels, None if bias is None else bias[rows], geometry))
    return torch.cat(outputs, 1)


class _CrossDConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        input, weight, shift, bias, dim, index, *geometry, backend = inputs
        ctx.plan = _Plan(dim, index, Geometry(*geometry), backend)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, shift)
        if _compiled():
            result: Tensor = _compiled_forward(*inputs)
            return result
        output = _forward(input, weight, shift, bias, ctx.plan)
        # Autograd lets nobody change in place what is a view made in here, and the ReLU after a layer often does.
        same: Tensor = torch.ops.aten._unsafe_view(output, output.shape)
        return same

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 11
        input, weight, shift = ctx.saved_tensors
        needs: tuple[bool, bool, bool] = ctx.needs_input_grad[:3]
        gradients: Sequence[Tensor | None]
        if _compiled():
            dim, index, geometry, backend = ctx.plan
            found = _compiled_backward(grad, input, weight, shift, dim, index, *geometry, *needs, backend)
            gradients = [gradient if need else None for gradient, need in zip(found, needs, strict=True)]
        else:
            gradients = _gradients(grad, input, weight, shift, ctx.plan, needs)
        grad_bias = grad.sum([0, *range(2, grad.dim())]) if ctx.needs_input_grad[3] else None
        return *gradients, grad_bias, *(None,) * 7


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of input, weight and shift


def _gradients(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, plan: _Plan, needs: tuple[bool, bool, bool]
) -> _Gradients:
    blocks = _blocks(input, weight, plan)
    # Blocks are added up in place: not where these gradients will be differentiated.
    if len(blocks) > 1 and not torch.is_grad_enabled():
        return _gradients_of_blocks(grad, input, weight, shift, plan, needs, blocks)
    dim, index, geometry, backend = plan
    need_input, need_weight, need_shift = needs
    # Only their shape is looked at where the input needs no gradient, but every library call wants them.
    kernels = shift_forward(weight, shift, dim, index, input.dtype, backend)
    grad_input, grad_kernels = convolve_backward(grad, input, kernels, geometry, need_input, need_weight or need_shift)
    del kernels
    if grad_kernels is None:
        return grad_input, None, None
    grad_weight, grad_shift = shift_backward(grad_kernels, weight, shift, dim, index, need_weight, need_shift, backend)
    return grad_input, grad_weight if need_weight else None, grad_shift if need_shift else None


def _gradients_of_blocks(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    plan: _Plan,
    needs: tuple[bool, bool, bool],
    blocks: Sequence[slice],
) -> _Gradients:
    dim, index, geometry, backend = plan
    need_input, need_weight, need_shift = needs
    operators = _backend.operators(backend)
    gradients = ConvolutionGradients(input, geometry, need_input, need_weight or need_shift)
    grad_weight = torch.empty_like(weight) if need_weight else None
    grad_shift: Tensor | None = None
    for rows in blocks:
        kernels = operators.fourier_shift(weight[rows], shift, dim, index, input.dtype)
        grad_kernels = gradients.add(grad[:, rows], kernels)
        del kernels
        if grad_kernels is None:
            continue
        of_weight, of_shift = operators.fourier_shift_backward(
            grad_kernels, weight[rows], shift, dim, index, need_weight, need_shift
        )
        if grad_weight is not None:
            grad_weight[rows] = of_weight
        if need_shift:
            grad_shift = of_shift if grad_shift is None else grad_shift.add_(of_shift)
    return gradients.grad_input(), grad_weight, grad_shift


# Both passes as operators of their own, for compiled code alone. Inductor makes a constant of a convolution's number of
# groups, here a multiple of the batch size, and would compile anew for each; and what is best for a shape, which takes
# a loop over samples or blocks of channels, is chosen when the shape is known.
# Not in an exported program, which has to run without Python.
def _compiled() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


_PLACE = "int dim, int? index, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"


@torch.library.custom_op(
    "crossd_ops::convolution",
    mutates_args=(),
    schema=f"(Tensor input, Tensor weight, Tensor shift, Tensor? bias, {_PLACE}, str backend) -> Tensor",
)
def _compiled_forward(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, dim: int, index: int | None, *rest: Any
) -> Tensor:
    *geometry, backend = rest
    return _forward(input, weight, shift, bias, _Plan(dim, index, _geometry(geometry), backend)).contiguous()


@_compiled_forward.register_fake
def _compiled_forward_shape(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, dim: int, index: int | None, *rest: Any
) -> Tensor:
    kernel = weight if index is None else weight.select(2 + dim, 0)
    sizes = output_sizes(input, kernel[None], _geometry(rest[:-1]))
    return input.new_empty((input.shape[0], weight.shape[0], *sizes))


@torch.library.custom_op(
    "crossd_ops::convolution_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor input, Tensor weight, Tensor shift, {_PLACE}, "
    "bool need_input, bool need_weight, bool need_shift, str backend) -> (Tensor, Tensor, Tensor)",
)
def _compiled_backward(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, dim: int, index: int | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *geometry, need_input, need_weight, need_shift, backend = rest
    plan = _Plan(dim, index, _geometry(geometry), backend)
    found = _gradients(grad, input, weight, shift, plan, (need_input, need_weight, need_shift))
    of_input, of_weight, of_shift = (
        like.new_empty(0) if gradient is None else gradient.to(like.dtype).contiguous()
        for gradient, like in zip(found, (input, weight, shift), strict=True)
    )
    return of_input, of_weight, of_shift


@_compiled_backward.register_fake
def _compiled_backward_shape(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, dim: int, index: int | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    of_input, of_weight, of_shift = (
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((input, weight, shift), rest[-4:-1], strict=True)
    )
    return of_input, of_weight, of_shift


def _geometry(numbers: Sequence[Any]) -> Geometry:
    stride, padding, dilation, groups = numbers
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
