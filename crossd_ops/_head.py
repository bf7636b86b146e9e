"""The head of a layer, from its input to the shift, as one step of autograd that keeps nothing of its own.

Between the passes the head's layers would keep two maps of their hidden channels and the map of scores: half of what a
convolution of 64 channels keeps. They cost a few percent of that convolution to compute, so the backward pass computes
them again from the input, which the convolution keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._rotation_head import rotation_head
from ._transforms import transformed


def predict_shift(input: Tensor, layers: nn.Sequential, rotation: str) -> Tensor:
    """Shift (B, 3) of each sample of input (B, C, H, W); `layers`: 1x1 convolution, norm, ReLU, 1x1 convolution."""
    parameters = [*layers.parameters()]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (input, *parameters))
    # What a plain BatchNorm2d does can be done twice; SyncBatchNorm talks to other processes.
    plain = type(layers[1]) is nn.BatchNorm2d and len(parameters) == 6
    # Meta tensors have no memory to spare, and autocast, whose state is kept, does not know them.
    if not wanted or not plain or input.is_meta or torch.compiler.is_compiling() or transformed():
        return rotation_head(layers(input), rotation)
    function: Any = _RecomputedHead
    shift: Tensor = function.apply(input, layers, rotation, *parameters)
    return shift


class _RecomputedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layers: nn.Sequential, rotation: str, *parameters: Tensor) -> Tensor:
        norm: Any = layers[1]
        shift = rotation_head(layers(input), rotation)
        ctx.rotation, ctx.epsilon = rotation, norm.eps
        of_batch = norm.training or norm.running_mean is None
        # In evaluation the statistics are data, and may change before the backward pass comes.
        statistics = () if of_batch else (norm.running_mean.clone(), norm.running_var.clone())
        ctx.device_type = input.device.type
        ctx.autocast = torch.is_autocast_enabled(ctx.device_type), torch.get_autocast_dtype(ctx.device_type)
        ctx.save_for_backward(input, *parameters, *statistics)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpointing refuses to give them twice
        tensors, statistics = saved[:7], saved[7:]
        needs = ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]
        again = torch.is_grad_enabled()  # these gradients will be differentiated: their graph leads to the tensors
        if not again:
            tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
        input, weight1, bias1, gain, offset, weight2, bias2 = tensors
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), torch.autocast(ctx.device_type, dtype, enabled):
            hidden = F.conv2d(input, weight1, bias1)
            mean, variance = statistics or (None, None)
            hidden = F.batch_norm(hidden, mean, variance, gain, offset, not statistics, 0.0, ctx.epsilon)
            shift = rotation_head(F.conv2d(hidden.relu_(), weight2, bias2), ctx.rotation)
        sought = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        found = iter(torch.autograd.grad(shift, sought, grad_shift, create_graph=again))
        grads = [next(found) if need else None for need in needs]
        return grads[0], None, None, *grads[1:]


def unused(weight: Tensor, layers: nn.Sequential) -> Tensor:
    """`weight`, on which the head seems to depend: its parameters get gradients of 0, which is what they are.

    Without, DistributedDataParallel would wait for them, and optimizers would treat them otherwise than published.
    """
    parameters = [*layers.parameters()]
    if transformed() or not any(parameter.requires_grad for parameter in parameters):
        return weight
    function: Any = _Unused
    result: Tensor = function.apply(weight, *parameters)
    return result


class _Unused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        zeros = (torch.zeros_like(item) if need else None for item, need in zip(ctx.saved_tensors, needs, strict=True))
        return grad, *zeros
