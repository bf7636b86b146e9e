"""Convolutions, pools, paddings and enlargement: the functions get along the depth what the layers of `twins` get."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..averages import average_pool
from ..depth import VolumePadding, adaptive_depth
from .axes import VOLUME, Refusal, axes_of, flat_axes, with_axes
from .endless import endless_input, endless_layer, endless_pad
from .rules import Call, refuse_if_unseen_later, rule
from .sizes import Extent, depth_for


def _three(value: Any) -> Any:
    """A height and a width, or one number for both, with the number of the depth: that of the height."""
    if isinstance(value, Extent):
        raise Refusal(f"the size {int.__repr__(value)} of an axis for all of them")
    if isinstance(value, tuple | list) and len(value) == 2:
        height, width = (part.number if isinstance(part, Extent) else part for part in value)
        return (depth_for(value[0]) if isinstance(value[0], Extent) else height, height, width)
    if isinstance(value, tuple | list) and len(value) == 1:
        return (*value, *value, *value)
    return value


def _pooled(call: Call, deep: Any, *sizes: str) -> Any:
    """The 3D function with three numbers where one or two were; `sizes` are arguments in their order."""
    if call.axes != VOLUME:
        raise Refusal(f"a map of the axes {', '.join(flat_axes(call.axes))}")
    for position, name in enumerate(sizes, 1):
        value = call.argument(position, name)
        if value is not None:
            call.change(position, name, value=_three(value))
    if "input" in call.kwargs:
        call.args.insert(0, call.kwargs.pop("input"))
    refuse_if_unseen_later()
    return deep(*call.args, **call.kwargs)


@rule("max_pool2d", "max_pool2d_with_indices")
def _max_pool(call: Call) -> Any:
    if call.name == "max_pool2d_with_indices" or call.argument(6, "return_indices"):
        raise Refusal("indices of a pool over images")
    return _pooled(call, F.max_pool3d, "kernel_size", "stride", "padding", "dilation")


@rule("avg_pool2d")
def _avg_pool(call: Call) -> Any:
    divisor = call.argument(6, "divisor_override")
    if divisor:
        kernel = _three(call.argument(1, "kernel_size"))
        call.change(6, "divisor_override", value=divisor * (kernel[0] if isinstance(kernel, tuple | list) else kernel))
    if call.endless:
        endless_input(call, _three(call.argument(3, "padding", default=0)), 3)
    return _pooled(call, average_pool, "kernel_size", "stride", "padding")


@rule("lp_pool2d")
def _lp_pool(call: Call) -> Any:
    for position, name in ((2, "kernel_size"), (3, "stride")):
        value = call.argument(position, name)
        if value is not None:
            call.change(position, name, value=_three(value))
    return _pooled(call, F.lp_pool3d)


@rule("adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive_pool(call: Call) -> Any:
    deep = F.adaptive_avg_pool3d if "avg" in call.name else F.adaptive_max_pool3d
    if call.argument(2, "return_indices"):
        raise Refusal("indices of a pool over images")
    size = call.argument(1, "output_size")
    height, width = (size * 2 if len(size) == 1 else size) if isinstance(size, tuple | list) else (size, size)
    if isinstance(height, Extent):
        depth = depth_for(height)
    elif isinstance(size, tuple | list) and len(size) == 3:
        return _pooled(call, deep)
    else:
        depth = adaptive_depth(height)
    call.change(1, "output_size", value=(depth, height, width))
    return _pooled(call, deep)


@rule("dropout2d")
def _dropout(call: Call) -> Any:
    return _pooled(call, F.dropout3d)


@rule("interpolate", "upsample", "upsample_bilinear", "upsample_nearest")
def _interpolate(call: Call) -> Any:
    name = call.name
    if call.axes != VOLUME:
        raise Refusal(f"a map of the axes {', '.join(flat_axes(call.axes))}")
    size, factor = call.argument(1, "size"), call.argument(2, "scale_factor")
    mode = call.argument(3, "mode", default="nearest")
    if name in ("upsample_bilinear", "upsample_nearest"):
        mode = name.partition("_")[2]
        call.kwargs["align_corners"] = True if mode == "bilinear" else None
    if mode == "bicubic":
        raise Refusal("bicubic, which torch has for images alone")
    if isinstance(size, tuple | list) and len(size) == 2:
        if not isinstance(size[0], Extent):
            raise ValueError(
                f"interpolate: expected a size with the depth, got {tuple(size)}: this network enlarges to a height "
                "and a width that it computes, which says nothing of a volume's depth"
            )
        size = _three(size)
    elif isinstance(size, Extent):
        size = _three(size)
    options = {"recompute_scale_factor": call.argument(5, "recompute_scale_factor")}
    options["align_corners"] = call.argument(4, "align_corners")
    if call.argument(6, "antialias", default=False):
        raise Refusal("antialias, which torch has for images alone")
    refuse_if_unseen_later()
    mode = "trilinear" if mode == "bilinear" else mode
    return F.interpolate(call.tensor, size, _three(factor), mode, **options)


@rule("pad")
def _pad(call: Call) -> Any:
    pad, mode, axes = call.argument(1, "pad"), call.argument(2, "mode", default="constant"), call.axes
    if isinstance(pad, VolumePadding) or (mode != "constant" and len(pad) == 6):
        return endless_pad(call, [*pad]) if call.endless and mode == "constant" else call.run()
    # Pairs begin with the last axis; behind that of the height comes the one of the depth.
    behind = 2 * (len(flat_axes(axes)) - flat_axes(axes).index("H"))
    letters = flat_axes(axes)[::-1]
    for number, amount in enumerate(pad):
        if isinstance(amount, Extent) and letters[number // 2] != amount.axis:
            raise Refusal(f"the amounts {tuple(pad)}, of which some are sizes of another axis")
    if len(pad) >= behind:
        height = pad[behind - 2 : behind]
        depth = [amount.depth if isinstance(amount, Extent) else amount for amount in height]
        pad = [*pad[:behind], *depth, *pad[behind:]]
        if call.endless and mode == "constant" and axes == VOLUME:
            return endless_pad(call, pad)
        call.change(1, "pad", value=[amount.number if isinstance(amount, Extent) else amount for amount in pad])
        return with_axes(call.lifted(), axes)
    return with_axes(call.run(), axes)


@rule(
    "conv3d", "conv_transpose3d", "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "lp_pool3d",
    always=True,
)  # fmt: skip
def _volume_layer(call: Call) -> Any:
    """What layers call: volumes pass; (B, C, 1, 1), what is left of a map, is a volume of one voxel.

    A convolution of kernel size 1 takes (B, C, N, M) of any kind, such as weights of attention, as it did.
    """
    tensor = call.tensor
    axes = axes_of(tensor)
    if axes == VOLUME:
        return endless_layer(call) if call.endless else call.run()
    if isinstance(tensor, Tensor) and not axes and tensor.dim() == 4 and tensor.shape[-2:] == (1, 1):
        call.change(0, "input", value=tensor.unsqueeze(2))
        return call.lifted()
    if isinstance(tensor, Tensor) and not axes and tensor.dim() == 4 and call.function is F.conv3d:
        weight, stride = call.argument(1, "weight"), call.argument(3, "stride", default=1)
        if set(weight.shape[2:]) == {1} and _only(1, stride) and _only(0, call.argument(4, "padding", default=0)):
            call.change(0, "input", value=tensor.unsqueeze(2))
            return call.lifted().squeeze(2)
    raise Refusal(f"the input {tuple(tensor.shape)} of a layer for volumes (B, C, D, H, W)")


def _only(number: int, value: Any) -> bool:
    return all(part == number for part in (value if isinstance(value, tuple | list) else (value,)))


@rule("channel_shuffle", "native_channel_shuffle")
def _of_all_channels(call: Call) -> Any:
    if call.axes[:2] != "BC":
        raise Refusal(f"a map of the axes {', '.join(flat_axes(call.axes))}, whose channels are not the second")
    return with_axes(call.run(), call.axes)


@rule("batch_norm", "instance_norm", "group_norm", "local_response_norm", "cross_entropy", "nll_loss")
def _of_channels(call: Call) -> Any:
    axes = axes_of(call.tensor)
    if axes[:2] not in ("BC", ""):
        raise Refusal(f"a map of the axes {', '.join(flat_axes(axes))}, whose channels are not the second")
    return with_axes(call.run(), axes)


@rule("linear", "layer_norm", "rms_norm")
def _of_the_last_axis(call: Call) -> Any:
    axes = call.axes
    shape = call.argument(1, "normalized_shape")
    if call.name != "linear" and len(shape) > 1 and "H" in axes[-len(shape) :]:
        raise Refusal(f"normalised over the sizes {tuple(shape)}, among them a height without a depth")
    return with_axes(call.run(), axes)
