"""The head of a layer, from its input to the shift, as one step of autograd that keeps nothing of its own.

Between the passes the head's layers would keep two maps of their hidden channels and the map of scores: half of what a
convolution of 64 channels keeps. They cost a few percent of that convolution to compute, so the backward pass computes
them again from the input, which the convolution keeps anyway.

On the CPU in float32 one operator does all of it, and no hidden map ever lies in memory (csrc/head_problem.h); anywhere
else, and wherever a layer of the head is not the plain one, the layers themselves run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _backend
from ._rotation_head import rotation_head
from ._transforms import transformed

_HAS_OPERATOR = hasattr(torch.ops.crossd_ops, "predict_shift")  # not where nothing, or an older library, was loaded
_HIDDEN_CHANNELS = 16  # of the operator, which keeps them in registers
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def predict_shift(input: Tensor, layers: nn.Sequential, rotation: str) -> Tensor:
    """Shift (B, 3) of each sample of input (B, C, H, W); `layers`: 1x1 convolution, norm, ReLU, 1x1 convolution.

    Or of volumes (B, C, D, H, W): to the pooling over pixels a volume is an image that is D times as high.
    """
    if torch.compiler.is_compiling() or transformed() or input.is_meta:  # meta tensors have no memory to spare
        return rotation_head(layers(input).flatten(2, -2), rotation)
    norm: Any = layers[1]
    parameters: list[Tensor] = [*layers.parameters()]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (input, *parameters))
    # What a plain batch norm does can be done twice; SyncBatchNorm talks to other processes.
    plain = type(norm) in (nn.BatchNorm2d, nn.BatchNorm3d) and len(parameters) == 6
    fused = plain and _is_fusible(input, layers, parameters)
    if not fused and not (wanted and plain):
        return rotation_head(layers(input).flatten(2, -2), rotation)
    if input.dim() == 5:
        parameters = [tensor.squeeze(-1) if tensor.dim() == 5 else tensor for tensor in parameters]
    image = input.flatten(2, -2)
    if fused and not wanted:
        return _fused(image, norm, rotation, parameters)[0]
    function: Any = _FusedHead if fused else _RecomputedHead
    shift: Tensor = function.apply(image, layers, rotation, input.shape, *parameters)
    return shift


def _is_fusible(input: Tensor, layers: nn.Sequential, parameters: Sequence[Tensor]) -> bool:
    """Whether the operator does what these layers would: nothing but their own work, on tensors that it takes."""
    modules: list[Any] = [layers, *layers]
    _, first, norm, rectifier, last = modules
    has_global_hook: Any = nn.modules.module._has_any_global_hook
    tensors = [input, *parameters]
    if norm.running_mean is not None:
        tensors += [norm.running_mean, norm.running_var]
    return bool(
        _HAS_OPERATOR
        and all(tensor.dtype is torch.float32 and tensor.is_cpu for tensor in tensors)
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and input.layout is torch.strided
        and not torch.is_autocast_enabled("cpu")
        and _backend.select("cpu") == _backend.COMPILED
        and type(layers) is nn.Sequential
        and type(rectifier) is nn.ReLU
        and _is_pointwise(first, input.shape[1], _HIDDEN_CHANNELS)
        and _is_pointwise(last, _HIDDEN_CHANNELS, 4)
        and norm.num_features == _HIDDEN_CHANNELS
        and input.numel() > 0
        and not any(getattr(module, name) for module in modules for name in _HOOKS)
        and not has_global_hook()
    )


def _is_pointwise(layer: Any, in_channels: int, out_channels: int) -> bool:
    return (
        type(layer) in (nn.Conv2d, nn.Conv3d)
        and layer.weight.shape[:2] == (out_channels, in_channels)
        and set(layer.weight.shape[2:]) == {1}
        and layer.bias is not None
        and set(layer.stride) == {1}
        and (layer.padding in ("same", "valid") or set(layer.padding) == {0})
    )


def _fused(
    input: Tensor, norm: Any, rotation: str, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shift (B, 3), what was pooled (B, 4, 3), mean and variance used (16,); running statistics as batch norms."""
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    given = None if _of_batch(norm) else (norm.running_mean, norm.running_var)
    samples, _, rows, columns = input.shape
    pixels = samples * rows * columns
    if given is None and pixels == 1:
        size = torch.Size((samples, _HIDDEN_CHANNELS, rows, columns))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    mean, variance = given or (None, None)
    results: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.crossd_ops.predict_shift.default(
        input, weight1, bias1, gain, offset, mean, variance, norm.eps, weight2, bias2, rotation == "exact"
    )
    if norm.training and norm.track_running_stats:
        _track(norm, results[2], results[3] * (pixels / (pixels - 1)))
    return results


def _of_batch(norm: Any) -> bool:
    return norm.training or norm.running_mean is None


def _track(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Counts a batch of this mean and unbiased variance."""
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if share is None:
            share = 1 / norm.num_batches_tracked.item()
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean, share or 0.0)
        norm.running_var.lerp_(variance, share or 0.0)


def _recomputed(
    input: Tensor, parameters: tuple[Tensor, ...], statistics: tuple[Tensor, ...], epsilon: float, rotation: str
) -> Tensor:
    """The shift again, of torch's operations up to the scores; `statistics`: those given, or none for the batch's."""
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    mean, variance = statistics or (None, None)
    hidden = F.batch_norm(F.conv2d(input, weight1, bias1), mean, variance, gain, offset, not statistics, 0.0, epsilon)
    return rotation_head(F.conv2d(hidden.relu_(), weight2, bias2), rotation)


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, layers: nn.Sequential, rotation: str, shape: torch.Size, *parameters: Tensor
    ) -> Tensor:
        norm: Any = layers[1]
        ctx.rotation, ctx.epsilon, ctx.of_batch = rotation, norm.eps, _of_batch(norm)
        shift, *small = _fused(input, norm, rotation, parameters)
        ctx.save_for_backward(input, *parameters, *small)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        input, weight1, bias1, gain, offset, weight2, bias2, statistics, mean, variance = saved
        needs = ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # these gradients will be differentiated: their graph is that of torch's operations
            given = () if ctx.of_batch else (mean, variance)
            with torch.autocast("cpu", enabled=False):
                shift = _recomputed(input, saved[1:7], given, ctx.epsilon, ctx.rotation)
            return _gradients(shift, saved[:7], needs, grad_shift, create_graph=True)
        grads = torch.ops.crossd_ops.predict_shift_backward.default(
            grad_shift, input, weight1, bias1, gain, offset, mean, variance, ctx.of_batch, ctx.epsilon,
            weight2, bias2, statistics, ctx.rotation == "exact", needs[0], any(needs[1:]),
        )  # fmt: skip
        grad_input, *rest = (grad if need else None for grad, need in zip(grads, needs, strict=True))
        return grad_input, None, None, None, *rest


class _RecomputedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, layers: nn.Sequential, rotation: str, shape: torch.Size, *parameters: Tensor
    ) -> Tensor:
        norm: Any = layers[1]
        shift = rotation_head(layers(input.reshape(shape)).flatten(2, -2), rotation)
        ctx.rotation, ctx.epsilon = rotation, norm.eps
        # In evaluation the statistics are data, and may change before the backward pass comes.
        statistics = () if _of_batch(norm) else (norm.running_mean.clone(), norm.running_var.clone())
        ctx.device_type = input.device.type
        ctx.autocast = torch.is_autocast_enabled(ctx.device_type), torch.get_autocast_dtype(ctx.device_type)
        ctx.save_for_backward(input, *parameters, *statistics)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpointing refuses to give them twice
        tensors, statistics = saved[:7], saved[7:]
        needs = ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]
        again = torch.is_grad_enabled()  # these gradients will be differentiated: their graph leads to the tensors
        if not again:
            tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), torch.autocast(ctx.device_type, dtype, enabled):
            shift = _recomputed(tensors[0], tensors[1:], statistics, ctx.epsilon, ctx.rotation)
        return _gradients(shift, tensors, needs, grad_shift, create_graph=again)


def _gradients(
    shift: Tensor, tensors: tuple[Tensor, ...], needs: tuple[bool, ...], grad_shift: Tensor, *, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """Of `shift` for the tensors that need one, in the places of the Functions' arguments."""
    sought = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    found = iter(torch.autograd.grad(shift, sought, grad_shift, create_graph=create_graph))
    grads = [next(found) if need else None for need in needs]
    return grads[0], None, None, None, *grads[1:]


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


def _predict_shift_shape(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    epsilon: float,
    weight2: Tensor,
    bias2: Tensor,
    exact: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples = input.shape[0]
    hidden = input.new_empty(gain.shape)
    return input.new_empty((samples, 3)), input.new_empty((samples, 4, 3)), hidden, torch.empty_like(hidden)


def _predict_shift_backward_shape(
    grad_shift: Tensor,
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    epsilon: float,
    weight2: Tensor,
    bias2: Tensor,
    statistics: Tensor,
    exact: bool,
    need_input: bool,
    need_parameters: bool,
) -> tuple[Tensor, ...]:
    parameters = (weight1, bias1, gain, offset, weight2, bias2)
    grads = (tensor.new_empty(tensor.shape if need_parameters else (0,)) for tensor in parameters)
    return torch.empty_like(input) if need_input else input.new_empty((0,)), *grads


if _HAS_OPERATOR:
    torch.library.register_fake("crossd_ops::predict_shift", _predict_shift_shape)
    torch.library.register_fake("crossd_ops::predict_shift_backward", _predict_shift_backward_shape)
