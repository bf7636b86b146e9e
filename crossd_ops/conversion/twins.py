"""Layers that have a twin of another number of axes and no weight that depends on it: norms, pools, paddings, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from ..operators.checks import int_of
from .depth import DepthRequests, VolumePadding, adaptive_depth
from .layers_3d import BatchNormAct3d, LayerNorm3d


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
    _Twins(nn.AvgPool2d, nn.AvgPool3d, _WINDOW),
    _Twins(nn.LPPool2d, nn.LPPool3d, {"kernel": "kernel_size", "stride": "stride"}),
    _Twins(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, {"size": "output_size"}),
    _Twins(nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, {"size": "output_size"}),
    _Twins(nn.ZeroPad2d, nn.ZeroPad3d, {"padding": "padding"}),
    _Twins(nn.ConstantPad2d, nn.ConstantPad3d, {"padding": "padding"}),
    _Twins(nn.ReflectionPad2d, nn.ReflectionPad3d, {"padding": "padding"}),
    _Twins(nn.ReplicationPad2d, nn.ReplicationPad3d, {"padding": "padding"}),
    _Twins(nn.CircularPad2d, nn.CircularPad3d, {"padding": "padding"}),
)
_DEEP = {twins.flat: twins for twins in _TWINS}
_FLAT = {twins.deep: twins for twins in _TWINS}
_MODES = {"bilinear": "trilinear", "trilinear": "bilinear"}
_SPECIAL = {"norm and activation": BatchNormAct3d, "layer norm": LayerNorm3d}


def depth_options(module: nn.Module) -> tuple[str, ...] | None:
    """The options of depth that a 2D layer has; None where it is no layer of this file."""
    if type(module) in _DEEP:
        return (*_DEEP[type(module)].per_axis,)
    if isinstance(module, nn.Upsample):
        return ("scale",) if module.size is None else ("size",)
    return () if _special(module) else None


def deepen(name: str, module: nn.Module, requests: DepthRequests) -> None:
    """Turns a 2D layer that has `depth_options` into its 3D twin, in place: whoever refers to it keeps it."""
    options = depth_options(module)
    assert options is not None
    request = requests.of(name, type(module).__name__, options)
    twins = _DEEP.get(type(module))
    if twins is not None:
        # The twin has the same attributes, whatever they are in this torch: no constructor is asked.
        module.__class__ = twins.deep
        for option, attribute in twins.per_axis.items():
            setattr(module, attribute, _deeper(module, option, attribute, request))
        if isinstance(module, nn.AvgPool3d) and module.divisor_override:
            module.divisor_override *= _window(module.kernel_size)[0]
    elif isinstance(module, nn.Upsample):
        _deepen_upsample(name, module, request)
    elif special := _SPECIAL.get(_special(module)):
        vars(module)["flat_type"] = type(module)
        module.__class__ = special


def flatten(module: nn.Module) -> bool:
    """Turns a 3D layer into its 2D twin, in place, without its depth; False where it is no layer of this file."""
    twins = _FLAT.get(type(module))
    if twins is not None:
        if isinstance(module, nn.AvgPool3d) and module.divisor_override:
            module.divisor_override //= _window(module.kernel_size)[0]
        module.__class__ = twins.flat
        for attribute in twins.per_axis.values():
            value = getattr(module, attribute)
            if isinstance(value, tuple):
                setattr(module, attribute, value[:4] if len(value) == 6 else value[1:])
        return True
    if isinstance(module, nn.Upsample):
        for attribute in ("size", "scale_factor"):
            value = getattr(module, attribute)
            setattr(module, attribute, value[1:] if isinstance(value, tuple) else value)
        module.mode = _MODES.get(module.mode, module.mode)
        return True
    if isinstance(module, BatchNormAct3d | LayerNorm3d):
        module.__class__ = vars(module).pop("flat_type")
        return True
    return False


def _special(module: nn.Module) -> str:
    """What a layer is that torch has no 3D twin of; known by name, as its package need not be installed."""
    kind = type(module).__name__
    if kind == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d):
        return "norm and activation"
    if kind == "LayerNorm2d" and isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return "layer norm"
    return ""


def _window(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if int_of(value) is not None else tuple(value)


def _deeper(module: nn.Module, option: str, attribute: str, request: Mapping[str, int]) -> Any:
    """The value of `attribute` for (depth, height, width), or paddings of their six sides from the last axis on."""
    value: Any = getattr(module, attribute)
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
        value: Any = getattr(module, attribute)
        if value is not None:
            height, width = value if isinstance(value, tuple) else (value, value)
            depth = request.get(option, height)
            unequal = isinstance(value, tuple) or depth != value
            setattr(module, attribute, (depth, height, width) if unequal else value)
    module.mode = _MODES.get(module.mode, module.mode)


def refuse_unknown(name: str, module: nn.Module) -> None:
    """Raises where a layer that is no convolution works on maps of two axes alone, as far as can be seen.

    Raises:
        TypeError: with the layer and the reason.
    """
    kind = type(module).__name__
    if kind.endswith("3d") or isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        raise TypeError(f"{name}: expected layers of 2D networks, got {kind}, which is 3D already")
    of_known_type = isinstance(module, tuple(twins.flat for twins in _TWINS))
    named_flat = kind.lower().endswith("2d") or kind in ("PixelShuffle", "PixelUnshuffle", "Fold", "Unfold", "Permute")
    if of_known_type or (named_flat and not any(module.children())):
        raise TypeError(f"{name}: expected a layer with a known 3D twin, got {kind}")
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() >= 3 and parameter.shape[-2:] == (1, 1):
            # Broadcast against a volume, the channels would meet its depth.
            raise TypeError(
                f"{name}: expected code that works on volumes too, got {kind}, whose parameter {parameter_name} "
                f"{tuple(parameter.shape)} is made for maps of two axes"
            )
