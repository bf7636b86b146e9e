"""A whole layer, head and convolution, as one step of autograd around one operator of each in each direction.

The straight way: of a head whose layers do nothing but their own work (plain_head.py), on tensors that both operators
take as they are. Every other layer, and whoever follows what is done (torch.compile, torch.func, tracers), goes the
general way, the head (head.py) and then the convolution (convolution.py), each a step of its own, with equal results.

Two steps cost the host twice, keep shift and input twice, and leave it to autograd to add the gradients of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import backends, convolution, head
from .context import apply_of


def layer_by_operators(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    place: convolution.Place,
    rotation: str,
    norm: Any,
    parameters: Sequence[Tensor],
) -> Tensor:
    """y_b = conv(x_b, weight shifted by what the head says of x_b) + bias, in the type of the input.

    `norm` and `parameters`: of a head, by plain_head.plain_parts, whose fused_type is that of this input; `place`: see
    convolution.py. For callers between whom and the compiled operators nothing stands, see functional.is_plain.
    """
    output: Tensor
    try:
        if torch.is_grad_enabled():
            output = _apply(input, weight, bias, (place, rotation, norm), *parameters)
        else:
            shift = head.fused_forward(input, norm, rotation, parameters)[0]
            if bias is not None and bias.dtype is not input.dtype:
                bias = convolution.bias_beside(bias, input.dtype)
            output = convolution.eager_forward(input, weight, shift, bias, place)
    except RuntimeError as error:
        raise backends.with_type(error) from error.__cause__
    return output


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, *parameters: Tensor
    ) -> Tensor:
        place, rotation, norm = settings
        ctx.settings = place, None if bias is None else bias.dtype, (norm.eps, rotation, head.of_batch(norm))
        shift, *small = head.fused_forward(input, norm, rotation, parameters)
        ctx.save_for_backward(input, weight, shift, *parameters, *small)
        if bias is not None and bias.dtype is not input.dtype:
            bias = convolution.bias_beside(bias, input.dtype)
        output: Tensor = convolution.eager_forward(input, weight, shift, bias, place)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpointing refuses to give them twice
        input, weight, shift, *of_head = saved
        of_head.insert(0, input)
        place, bias_dtype, settings = ctx.settings
        need_input, need_weight, need_bias, _, *needs = ctx.needs_input_grad
        need_head = need_input or any(needs)
        again = torch.is_grad_enabled()  # these gradients will be differentiated: their graph leads to the tensors
        if again and need_head:
            shift = head.fused_again(of_head, settings)
        tensors, sought = (input, weight, shift), (need_input, need_weight, need_head)
        found: Sequence[Any] = convolution.gradients(grad, tensors, place, sought)
        grad_input, grad_weight, grad_shift = found
        grads: list[Any] = [None] * len(needs)
        if again and need_head:
            found = head.gradients(shift, of_head[:7], (need_input, *needs), grad_shift, create_graph=True)
            of_input, _, *grads = found
            grad_input = grad_input + of_input if need_input else None
        elif need_head:
            beside = grad_input if need_input else None
            grad_input, *grads = head.fused_backward(grad_shift, of_head, settings, need_input, any(needs), beside)
        grad_bias = grad.sum((0, *range(2, grad.dim())), dtype=bias_dtype) if need_bias else None
        for number, need in enumerate(needs):
            if not need:
                grads[number] = None
        return grad_input if need_input else None, grad_weight, grad_bias, None, *grads


_apply = apply_of(_Layer)
