"""Layers that have a twin of another number of axes and no weight that depends on it: norms, pools, paddings, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from ..operators.checks import int_of
from .depth import DepthRequests, VolumePadding, adaptive_depth
from .layers_3d import AvgPool3d, AvgPool3dSame, BatchNormAct3d, BlurPool3d, LayerNorm3d, MaxPool3dSame


class _Twins(NamedTuple):
    """Two types whose attributes have the same names; those that hold one value per axis, by their option of depth."""

    flat: type[nn.Module]
    deep: type[nn.Module]
    per_axis: dict[str, str]


_WINDOW = {"kernel": "kernel_size", "stride": "stride", "padding": "padding"}
_TWINS = (
    _Twins(nn.BatchNorm2d, nn.BatchNorm3d, {}),
    _Twins(nn.InstanceNorm2d, nn.InstanceNorm3d, {}),
    _Twins(nn.Dropout2d, nn.Dropout3d, {}),
    _Twins(nn.MaxPool2d, nn.MaxPool3d, {**_WINDOW, "dilation": "dilation"}),
    _Twins(nn.AvgPool2d, AvgPool3d, _WINDOW),
    _Twins(nn.LPPool2d, nn.LPPool3d, {"kernel": "kernel_size", "stride": "stride"}),
    _Twins(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, {"size": "output_size"}),
    _Twins(nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, {"size": "output_size"}),
    _Twins(nn.ZeroPad2d, nn.ZeroPad3d, {"padding": "padding"}),
    _Twins(nn.ConstantPad2d, nn.ConstantPad3d, {"padding": "padding"}),
    _Twins(nn.ReflectionPad2d, nn.ReflectionPad3d, {"padding": "padding"}),
    _Twins(nn.ReplicationPad2d, nn.ReplicationPad3d, {"padding": "padding"}),
    _Twins(nn.CircularPad2d, nn.CircularPad3d, {"padding": "padding"}),
)
_SAME_WINDOW = {"kernel": "kernel_size", "stride": "stride"}
# Layers of timm and torchvision by the names of their classes, as their packages need not be installed: subclasses of
# the flat type, which the twin remembers as its `flat_type`.
_NAMED = {
    "BatchNormAct2d": _Twins(nn.BatchNorm2d, BatchNormAct3d, {}),
    "LayerNorm2d": _Twins(nn.LayerNorm, LayerNorm3d, {}),
    "MaxPool2dSame": _Twins(nn.MaxPool2d, MaxPool3dSame, {**_SAME_WINDOW, "dilation": "dilation"}),
    "AvgPool2dSame": _Twins(nn.AvgPool2d, AvgPool3dSame, _SAME_WINDOW),
    "BlurPool2d": _Twins(nn.Module, BlurPool3d, {"stride": "stride"}),
}
_DEEP = {twins.flat: twins for twins in _TWINS}
_FLAT = {twins.deep: twins for twins in (*_TWINS, *_NAMED.values())}
_FLAT[nn.AvgPool3d] = _DEEP[nn.AvgPool2d]  # which 3D networks have
_MODES = {"bilinear": "trilinear", "trilinear": "bilinear"}


def depth_options(module: nn.Module) -> tuple[str, ...] | None:
    """The options of depth that a 2D layer has; None where it is no layer of this file."""
    if isinstance(module, nn.Upsample):
        return ("scale",) if module.size is None else ("size",)
    twins = _twins_of(module)
    return None if twins is None else (*twins.per_axis,)


def deepen(name: str, module: nn.Module, requests: DepthRequests) -> None:
    """Turns a 2D layer that has `depth_options` into its 3D twin, in place: whoever refers to it keeps it."""
    options = depth_options(module)
    assert options is not None
    request = requests.of(name, type(module).__name__, options)
    if isinstance(module, nn.Upsample):
        _deepen_upsample(name, module, request)
        return
    twins = _twins_of(module)
    assert twins is not None
    if type(module) is not twins.flat:
        vars(module)["flat_type"] = type(module)
    # The twin has the same attributes, whatever they are in this torch: no constructor is asked.
    module.__class__ = twins.deep
    for option, attribute in twins.per_axis.items():
        setattr(module, attribute, _deeper(module, option, attribute, request))
    if isinstance(module, nn.AvgPool3d) and module.divisor_override:
        module.divisor_override *= _window(module.kernel_size)[0]
    elif isinstance(module, BlurPool3d):
        module.deepen()


def flatten(module: nn.Module) -> bool:
    """Turns a 3D layer into its 2D twin, in place, without its depth; False where it is no layer of this file."""
    twins = _FLAT.get(type(module))
    if twins is not None:
        if isinstance(module, nn.AvgPool3d) and module.divisor_override:
            module.divisor_override //= _window(module.kernel_size)[0]
        elif isinstance(module, BlurPool3d):
            module.flatten()
        module.__class__ = vars(module).pop("flat_type", twins.flat)
        for attribute in twins.per_axis.values():
            value = _sizes(getattr(module, attribute))
            if isinstance(value, tuple):
                setattr(module, attribute, value[:4] if len(value) == 6 else value[1:])
        return True
    if isinstance(module, nn.Upsample):
        for attribute in ("size", "scale_factor"):
            value = _sizes(getattr(module, attribute))
            setattr(module, attribute, value[1:] if isinstance(value, tuple) else value)
        module.mode = _MODES.get(module.mode, module.mode)
        return True
    return False


def _twins_of(module: nn.Module) -> _Twins | None:
    kind = type(module)
    named = _NAMED.get(kind.__name__)
    if named is None or kind.__module__.partition(".")[0] not in ("timm", "torchvision"):
        return _DEEP.get(kind)
    over_channels = not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) == 1
    return named if isinstance(module, named.flat) and over_channels else None


def _sizes(value: Any) -> Any:
    """Sizes as a number or a tuple of one for each axis; torch takes lists, and one number in them, too."""
    if isinstance(value, tuple | list):
        return value[0] if len(value) == 1 else tuple(value)
    return value


def _window(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if int_of(value) is not None else tuple(value)


def _deeper(module: nn.Module, option: str, attribute: str, request: Mapping[str, int]) -> Any:
    """The value of `attribute` for (depth, height, width), or paddings of their six sides from the last axis on."""
    value: Any = _sizes(getattr(module, attribute))
    if value is None:  # a stride like the kernel, which is that of the twin already
        value = _window(module.kernel_size)[1:]
    if isinstance(value, tuple) and len(value) == 4:
        front_and_back = (request["padding"],) * 2 if option in request else value[2:]
        return VolumePadding((*value, *front_and_back))
    height, width = value if isinstance(value, tuple) else (value, value)
    depth = height
    if option in request:
        depth = request[option]
    elif option == "size":
        depth = adaptive_depth(height)
    elif option == "padding" and "kernel" in request:
        depth = min(height, request["kernel"] // 2)
    return (depth, height, width) if isinstance(value, tuple) or depth != value else value


def _deepen_upsample(name: str, module: nn.Upsample, request: Mapping[str, int]) -> None:
    if module.mode == "bicubic":
        raise TypeError(f"{name}: expected nearest or bilinear upsampling, got bicubic, which torch has for 2D alone")
    module.__class__ = nn.Upsample
    for option, attribute in (("size", "size"), ("scale", "scale_factor")):
        value: Any = _sizes(getattr(module, attribute))
        if value is not None:
            several = isinstance(value, tuple)
            height, width = value if several else (value, value)
            depth = request.get(option, height)
            unequal = several or depth != value
            setattr(module, attribute, (depth, height, width) if unequal else value)
    module.mode = _MODES.get(module.mode, module.mode)


def refuse_unknown(name: str, module: nn.Module) -> None:
    """Raises where a layer that is no convolution has no meaning for volumes; code of networks is judged when it runs.

    Raises:
        TypeError: with the layer and the reason.
    """
    kind = type(module)
    if kind.__name__.endswith("3d") or isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        raise TypeError(f"{name}: expected layers of 2D networks, got {kind.__name__}, which is 3D already")
    of_torch = kind.__module__.partition(".")[0] == "torch"
    if isinstance(module, (*_DEEP,)) or (of_torch and (kind.__name__.lower().endswith("2d") or kind in _FOR_IMAGES)):
        raise TypeError(f"{name}: expected a layer with a known 3D twin, got {kind.__name__}")


_FOR_IMAGES = (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Fold, nn.Unfold)
