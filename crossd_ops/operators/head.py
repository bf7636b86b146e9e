"""The head of a layer, from its input to the shift, as one step of autograd that keeps nothing of its own.

Between the passes the head's layers would keep two maps of their hidden channels and the map of scores: half of what a
convolution of 64 channels keeps. They cost a few percent of that convolution to compute, so the backward pass computes
them again from the input, which the convolution keeps anyway.

Where there are compiled kernels one operator does all of it, in float32 whatever the types of its tensors, and no
hidden map ever lies in memory (csrc/head/problem.h); in float64, anywhere else, and wherever a layer of the head is not
the plain one, the layers themselves run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..library import loaded
from . import backends
from .context import apply_of, jit_tracing, transformed
from .plain_head import HAS_OPERATOR, STATISTICS, fused_type, plain_parts
from .rotation_head import rotation_head

_operators: Any = torch.ops.crossd_ops
# The overloads, not the packets, which would resolve the overload anew at every call.
_forward: Any = functools.partial(backends.run, _operators.predict_shift.default) if HAS_OPERATOR else None
_backward: Any = functools.partial(backends.run, _operators.predict_shift_backward.default) if HAS_OPERATOR else None


def predict_shift(input: Tensor, layers: nn.Sequential, rotation: str) -> Tensor:
    """Shift (B, 3) of each sample of input (B, C, H, W); `layers`: 1x1 convolution, norm, ReLU, 1x1 convolution.

    Or of volumes (B, C, D, H, W): to the pooling over pixels a volume is an image that is D times as high.
    """
    if _is_followed() or input.is_meta:  # meta tensors have no memory to spare
        return _shift_of_layers(input, layers, rotation)
    plain = plain_parts(layers)
    if plain is None:
        return _shift_of_layers(input, layers, rotation)
    norm, parameters = plain
    dtype = fused_type(input, norm, parameters)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (input, *parameters))
    if dtype is None and not wanted:
        return _shift_of_layers(input, layers, rotation)
    image = input
    if input.dim() == 5:
        image = input.flatten(2, 3)
        parameters = [tensor.squeeze(-1) if tensor.dim() == 5 else tensor for tensor in parameters]
    shift: Tensor
    if dtype is None:
        shift = _apply_recomputed(image, (layers, rotation, input.shape), *parameters)
        return shift
    image = image.to(dtype)
    if not wanted:
        return fused_forward(image, norm, rotation, parameters)[0]
    shift = _apply_fused(image, (norm, rotation), *parameters)
    return shift


def _is_followed() -> bool:
    """Whether someone follows what is done who could not follow an autograd Function of ours."""
    return torch.compiler.is_compiling() or transformed() or jit_tracing()


def _shift_of_layers(input: Tensor, layers: nn.Sequential, rotation: str) -> Tensor:
    return rotation_head(scores(input, layers).flatten(2, -2), rotation)


def scores(input: Tensor, layers: nn.Sequential) -> Tensor:
    """The map that the layers of a head make. Raises ValueError where a norm of the batch has one value a channel."""
    try:
        map: Tensor = layers(input)
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        raise _one_value(input) from error
    return map


_ONE_VALUE = "more than 1 value per channel when training"  # torch's words


def _one_value(input: Tensor) -> ValueError:
    return ValueError(
        f"input: expected {_ONE_VALUE}, by whose deviation the BatchNorm of this layer's head divides, got 1 sample of "
        f"1 pixel with {input.shape[1]} channels; give larger batches or images, or put the head into evaluation: "
        "layer.rotation_params.eval()"
    )


def fused_forward(
    image: Tensor, norm: Any, rotation: str, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shift (B, 3), what was pooled (B, 4, 3), mean and variance used (16,); running statistics as batch norms."""
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    mean = variance = None
    if not of_batch(norm):
        mean, variance = norm._buffers["running_mean"], norm._buffers["running_var"]
    samples, _, rows, columns = image.shape
    pixels = samples * rows * columns
    if mean is None and pixels == 1:
        raise _one_value(image)
    running: Sequence[Any] = ()
    if norm.training and norm.track_running_stats:
        running = *map(norm._buffers.get, STATISTICS), norm.momentum
    results: tuple[Tensor, Tensor, Tensor, Tensor] = _forward(
        image, weight1, bias1, gain, offset, mean, variance, norm.eps, weight2, bias2, rotation == "exact", *running
    )
    return results


def fused_backward(
    grad_shift: Tensor,
    saved: Sequence[Tensor],
    settings: tuple[float, str, bool],
    need_image: bool,
    need_others: bool,
    beside: Tensor | None = None,
) -> Sequence[Tensor]:
    """Gradients of image and parameters; `saved`: these, then the other results of `fused_forward`.

    `beside`: another gradient of the image, which is added to it while it is written.
    """
    image, weight1, bias1, gain, offset, weight2, bias2, statistics, mean, variance = saved
    epsilon, rotation, batch = settings
    found: Sequence[Tensor] = _backward(
        grad_shift, image, weight1, bias1, gain, offset, mean, variance, batch, epsilon,
        weight2, bias2, statistics, rotation == "exact", need_image, need_others, beside,
    )  # fmt: skip
    return found


def fused_again(saved: Sequence[Tensor], settings: tuple[float, str, bool]) -> Tensor:
    """The shift as torch's own operations make it, for gradients that will be differentiated; `saved` as above."""
    epsilon, rotation, batch = settings
    image, *parameters = (tensor.float() for tensor in saved[:7])
    with torch.autocast(image.device.type, enabled=False):
        return recomputed(image, tuple(parameters), () if batch else tuple(saved[8:10]), epsilon, rotation)


def of_batch(norm: Any) -> bool:
    return norm.training or norm._buffers["running_mean"] is None


def recomputed(
    input: Tensor, parameters: tuple[Tensor, ...], statistics: tuple[Tensor, ...], epsilon: float, rotation: str
) -> Tensor:
    """The shift again, of torch's operations up to the scores; `statistics`: those given, or none for the batch's."""
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    mean, variance = statistics or (None, None)
    hidden = F.batch_norm(F.conv2d(input, weight1, bias1), mean, variance, gain, offset, not statistics, 0.0, epsilon)
    return rotation_head(F.conv2d(hidden.relu_(), weight2, bias2), rotation)


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, settings: tuple[Any, str], *parameters: Tensor) -> Tensor:
        norm, rotation = settings
        ctx.settings = norm.eps, rotation, of_batch(norm)
        shift, *small = fused_forward(image, norm, rotation, parameters)
        ctx.save_for_backward(image, *parameters, *small)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        need_image, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # these gradients will be differentiated: their graph is that of torch's operations
            shift = fused_again(saved, ctx.settings)
            return gradients(shift, saved[:7], (need_image, *needs), grad_shift, create_graph=True)
        grad_image, *grads = fused_backward(grad_shift, saved, ctx.settings, need_image, any(needs))
        found = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
        return grad_image if need_image else None, None, *found


class _RecomputedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, settings: tuple[nn.Sequential, str, torch.Size], *parameters: Tensor
    ) -> Tensor:
        layers, ctx.rotation, shape = settings
        norm: Any = layers[1]
        shift = _shift_of_layers(input.reshape(shape), layers, ctx.rotation)
        ctx.epsilon = norm.eps
        # In evaluation the statistics are data, and may change before the backward pass comes.
        of_batch = norm.training or norm.running_mean is None
        statistics = () if of_batch else (norm.running_mean.clone(), norm.running_var.clone())
        ctx.device_type = input.device.type
        ctx.autocast = torch.is_autocast_enabled(ctx.device_type), torch.get_autocast_dtype(ctx.device_type)
        ctx.save_for_backward(input, *parameters, *statistics)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpointing refuses to give them twice
        tensors, statistics = saved[:7], saved[7:]
        needs = ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]
        again = torch.is_grad_enabled()  # these gradients will be differentiated: their graph leads to the tensors
        if not again:
            tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), torch.autocast(ctx.device_type, dtype, enabled):
            shift = recomputed(tensors[0], tensors[1:], statistics, ctx.epsilon, ctx.rotation)
        return gradients(shift, tensors, needs, grad_shift, create_graph=again)


_apply_fused = apply_of(_FusedHead)
_apply_recomputed = apply_of(_RecomputedHead)


def gradients(
    shift: Tensor, tensors: tuple[Tensor, ...], needs: tuple[bool, ...], grad_shift: Tensor, *, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """Of `shift` for the tensors that need one, in the places of the Functions' arguments."""
    sought = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    found = iter(torch.autograd.grad(shift, sought, grad_shift, create_graph=create_graph))
    grads = [next(found) if need else None for need in needs]
    return grads[0], None, *grads[1:]


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
    running_mean: Tensor | None = None,
    running_variance: Tensor | None = None,
    batches: Tensor | None = None,
    momentum: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples = input.shape[0]
    sizes = (samples, 3), (samples, 4, 3), gain.shape, gain.shape
    shift, statistics, *of_norm = (input.new_empty(size, dtype=torch.float32) for size in sizes)
    return shift, statistics, of_norm[0], of_norm[1]


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
    grad_beside: Tensor | None = None,
) -> tuple[Tensor, ...]:
    parameters = (weight1, bias1, gain, offset, weight2, bias2)
    grads = (tensor.new_empty(tensor.shape if need_parameters else (0,)) for tensor in parameters)
    return torch.empty_like(input) if need_input else input.new_empty((0,)), *grads


if HAS_OPERATOR:
    loaded.register_fake("predict_shift", _predict_shift_shape)
    loaded.register_fake("predict_shift_backward", _predict_shift_backward_shape)
