"""A layer whose head is skipped, since a shift has no effect there or is fixed: what its parameters get as gradients.

The gradients are exact zeros, and have to exist: without them DistributedDataParallel would wait, and optimizers would
treat the parameters otherwise than published. They are views of one tensor that belongs to this layer and this backward
pass alone: one launch on a GPU instead of one for each parameter. No two of them overlap, and no other layer or pass
sees their memory, so whatever writes into gradients (optimizers, clipping, scaling, accumulation) changes none but its
own; an expanded zero without a launch would be copied for each parameter by autograd, which keeps no gradient that
overlaps itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..operators.context import jit_tracing, transformed

_unsafe_view: Any = torch.ops.aten._unsafe_view.default
_PLAIN = (Tensor, nn.Parameter)  # not their subclasses, which may lie in memory in other ways


def without_head(weight: Tensor, head: nn.Module) -> Tensor:
    """`weight`, on which the head seems to depend: with the gradient of the result, the head gets zeros."""
    if not torch.is_grad_enabled() or transformed() or jit_tracing():
        return weight
    parameters = _parameters_of(head)
    if not any(parameter.requires_grad for parameter in parameters):
        return weight
    apply: Any = _WithoutHead.apply
    result: Tensor = apply(weight, *parameters)
    return result


def _parameters_of(head: nn.Module) -> list[Tensor]:
    """Each parameter once. As `head.parameters()`, which takes three times as long, where no layer has layers."""
    layers = head._modules.values()
    if head._parameters or any(layer is None or layer._modules for layer in layers):
        return [*head.parameters()]
    found = (parameter for layer in layers for parameter in layer._parameters.values())  # type: ignore[union-attr]
    return [*{id(parameter): parameter for parameter in found if parameter is not None}.values()]


class _WithoutHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        wanted = [parameter for parameter, need in zip(ctx.saved_tensors, needs, strict=True) if need]
        zeros = iter(_zeros_like(wanted))
        return grad, *(next(zeros) if need else None for need in needs)


def _zeros_like(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """A tensor of zeros for each, in memory of one where they are of one kind."""
    kinds = {(type(tensor) in _PLAIN, tensor.dtype, tensor.device, tensor.is_contiguous()) for tensor in tensors}
    (plain, dtype, device, contiguous), *others = kinds
    if others or not (plain and contiguous) or torch.compiler.is_compiling():  # a compiler makes one launch of them
        return [torch.zeros_like(tensor) for tensor in tensors]
    sizes = [tensor.numel() for tensor in tensors]
    # "unsafe": autograd takes them for tensors of their own, not for views, so each may be written into.
    parts = torch.unsafe_split_with_sizes(torch.zeros(sum(sizes), dtype=dtype, device=device), sizes)
    return [_unsafe_view(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
