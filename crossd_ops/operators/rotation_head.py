"""The rotation head after its convolutions, as one operator: from a map to each sample's shift (arXiv 2411.02441).

The compiled operators have a hand-written first derivative. Where more is asked for (a derivative of the gradient,
torch.func, forward-mode derivatives), the composite of torch's own operations takes their place: it has them all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..library import loaded
from . import backends, checks, export
from .context import apply_of, transformed, with_plain_sizes

_NORM_EPSILON = 1e-8
_LARGEST_ANGLE = math.pi / 4


def rotation_head(map: Tensor, rotation: str = "linear") -> Tensor:
    """The shift of each sample from a map of scores, as one fused operator.

        v_c = sum_hw softmax_hw(map_c) map_c                            for each of the four channels
        axis = v[0:3] / (|v[0:3]| + 1e-8),  angle = tanh(v[3]) pi / 4
        shift = rotation_shift(axis, angle)

    Args:
        map: (B, 4, H, W), at least one pixel, any strides; B may be 0; float64, float32, bfloat16, float16.
        rotation: "linear" or "exact", see `rotation_shift`.

    Returns:
        (B, 3), float32, or float64 for a float64 map, whatever autocast says. NaN or infinity in a sample's map makes
        the shift of that sample alone NaN.

    Raises:
        TypeError, ValueError: before any work, with what was expected and what came.
    """
    with_plain_sizes(_check_map, map, rotation)
    backend = backends.select(map.device.type)
    compiling = torch.compiler.is_compiling()
    if backend == backends.REFERENCE or (not compiling and transformed()) or export.wants_plain_operations():
        return composite(map, rotation)
    if not compiling and not (torch.is_grad_enabled() and map.requires_grad):
        return backends.operators(backend).rotation_head(map, rotation == "exact")[0]
    apply = _RotationHead.apply if compiling else _apply
    shift: Tensor = apply(map, rotation, backend)
    return shift


def composite(map: Tensor, rotation: str) -> Tensor:
    """`rotation_head` of torch operations: every derivative, every transformation, several passes over the map."""
    axis, angle = pooled_rotation(map)
    return shift_of_rotation(axis, angle[:, None], rotation)


def shift_of_rotation(axis: Tensor, angle: Tensor, rotation: str) -> Tensor:
    """`crossd_ops.rotation_shift` of axis (B, 3) and angle (B, 1) of one type, float32 at least."""
    cross_one = axis.roll(-1, -1) - axis.roll(1, -1)
    if rotation == "linear":
        return 1 - angle * cross_one
    cross_twice = axis.roll(-1, -1) * cross_one.roll(1, -1) - axis.roll(1, -1) * cross_one.roll(-1, -1)
    # 1 - cos t as 2 sin^2(t/2): no cancellation at the small angles that heads predict.
    return 1 - angle.sin() * cross_one + 2 * (angle / 2).sin().square() * cross_twice


def pooled_rotation(map: Tensor) -> tuple[Tensor, Tensor]:
    """Axis (B, 3) and angle (B,), in radians, of each sample of a map (B, 4, H, W); float32 at least."""
    scores = map.flatten(2).to(checks.accumulate_dtype(map.dtype))
    v = (scores.softmax(-1) * scores).sum(-1)
    direction, angle = v[:, :3], v[:, 3].tanh() * _LARGEST_ANGLE
    return direction / (torch.linalg.vector_norm(direction, dim=1, keepdim=True) + _NORM_EPSILON), angle


class _RotationHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        map, ctx.rotation, ctx.backend = inputs
        shift, statistics = backends.operators(ctx.backend).rotation_head(map, ctx.rotation == "exact")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(map, statistics)
        return shift

    @staticmethod
    def backward(ctx: Any, grad_shift: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad_shift is None:
            return None, None, None
        map, statistics = ctx.saved_tensors
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            backward = backends.operators(ctx.backend).rotation_head_backward
            return backward(grad_shift, map, statistics, ctx.rotation == "exact"), None, None
        # This gradient will be differentiated (create_graph): its graph is that of the composite's gradient.
        shift = composite(map, ctx.rotation)
        (grad_map,) = torch.autograd.grad(shift, map, grad_shift, create_graph=True)
        return grad_map, None, None


_apply = apply_of(_RotationHead)


def _check_map(map: Tensor, rotation: str) -> None:
    checks.check_tensor("map", map)
    if map.dim() != 4 or map.shape[1] != 4:
        raise ValueError(f"map: expected (B, 4, H, W), got {tuple(map.shape)}")
    if map.shape[2] == 0 or map.shape[3] == 0:
        raise ValueError(f"map: expected at least one pixel, got {tuple(map.shape)}")
    if rotation not in ("linear", "exact"):
        raise ValueError(f"rotation: expected 'linear' or 'exact', got {rotation!r}")


def _rotation_head_shape(map: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    dtype = checks.accumulate_dtype(map.dtype)
    return map.new_empty((map.shape[0], 3), dtype=dtype), map.new_empty((map.shape[0], 4, 3), dtype=dtype)


def _rotation_head_backward_shape(grad_shift: Tensor, map: Tensor, statistics: Tensor, exact: bool) -> Tensor:
    return torch.empty_like(map)


loaded.register_fake("rotation_head", _rotation_head_shape)
loaded.register_fake("rotation_head_backward", _rotation_head_backward_shape)
