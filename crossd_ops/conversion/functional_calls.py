"""Calls of 2D functions in a network's own code (`F.adaptive_avg_pool2d` in a forward): found, and made for volumes."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_POOLS: dict[Any, Any] = {
    F.adaptive_avg_pool2d: F.adaptive_avg_pool3d,
    F.adaptive_max_pool2d: F.adaptive_max_pool3d,
    F.avg_pool2d: F.avg_pool3d,
    F.max_pool2d: F.max_pool3d,
    F.dropout2d: F.dropout3d,
    F.lp_pool2d: F.lp_pool3d,
}
_REDUCTION_NAMES = ("mean", "sum", "amax", "amin")
_REDUCTIONS = {getattr(owner, name) for owner in (torch, Tensor) for name in _REDUCTION_NAMES}
_LAST_TWO = ((2, 3), (-2, -1), (-1, -2), (3, 2))
_LIFTED_NAMES = {"interpolate", *_REDUCTION_NAMES, *(function.__name__ for function in _POOLS)}
_REFUSED_NAMES = {
    "affine_grid", "channel_shuffle", "conv2d", "conv_transpose2d", "fold", "grid_sample", "permute", "pixel_shuffle",
    "pixel_unshuffle", "unfold",
}  # fmt: skip


class VolumeCalls(TorchFunctionMode):
    """Within it, 2D pooling, bilinear interpolation and reductions over (2, 3) of a 5D tensor take in its depth.

    A pair of sizes, as of a kernel, becomes three by repeating the first for the depth.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        volume = args[0] if args else kwargs.get("input")
        if isinstance(volume, Tensor) and volume.dim() == 5:
            if func in _POOLS:
                args = (*args[:1], *(_triple(argument) for argument in args[1:]))
                return _POOLS[func](*args, **{name: _triple(value) for name, value in kwargs.items()})
            if func is F.interpolate:
                _lift_interpolation(args, kwargs)
            elif func in _REDUCTIONS:
                args = (*args[:1], *(_all_axes(argument) for argument in args[1:2]), *args[2:])
                kwargs = {name: _all_axes(value) if name == "dim" else value for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _triple(value: Any) -> Any:
    return (value[0], *value) if isinstance(value, tuple | list) and len(value) == 2 else value


def _all_axes(dims: Any) -> Any:
    return (2, 3, 4) if isinstance(dims, tuple | list) and tuple(dims) in _LAST_TWO else dims


def _lift_interpolation(args: Any, kwargs: dict[str, Any]) -> None:
    size = args[1] if len(args) > 1 else kwargs.get("size")
    if isinstance(size, tuple | list) and len(size) == 2:
        raise ValueError(
            f"interpolate: expected a size with the depth, got {tuple(size)}: this network enlarges to a height and a "
            "width that it computes, which says nothing of a volume's depth"
        )
    if kwargs.get("mode") == "bilinear":
        kwargs["mode"] = "trilinear"
    kwargs["scale_factor"] = _triple(kwargs.get("scale_factor"))


def lift_calls(name: str, module: nn.Module) -> None:
    """Lets the forward of `module` run within `VolumeCalls` where its code calls 2D functions.

    Raises:
        TypeError: it calls one that has no meaning for volumes, or that cannot be told from others.
    """
    # A part of the module by that name, such as self.interpolate, is looked at on its own.
    names = {word for word in _words(module) if not hasattr(module, word)}
    if refused := sorted(names & _REFUSED_NAMES):
        raise TypeError(
            f"{name}: expected code that works on volumes too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)} on maps of two axes"
        )
    if names & _LIFTED_NAMES:
        if "forward" in vars(module):
            raise TypeError(f"{name}: expected the forward of {type(module).__name__}, got one set on the module")
        vars(module)["forward"] = functools.partial(_forward_of_volumes, module)


def is_lifted(module: nn.Module) -> bool:
    """Whether the forward of `module` is the one that `lift_calls` sets."""
    forward = vars(module).get("forward")
    return isinstance(forward, functools.partial) and forward.func is _forward_of_volumes


def lower_calls(name: str, module: nn.Module) -> None:
    """Undoes `lift_calls`.

    Raises:
        TypeError: the module's own code calls 3D functions.
    """
    if is_lifted(module):
        del vars(module)["forward"]
    volume_names = {function.__name__ for function in _POOLS.values()} | {"conv3d", "conv_transpose3d"}
    if refused := sorted(word for word in _words(module) & volume_names if not hasattr(module, word)):
        raise TypeError(
            f"{name}: expected code that works on 2D maps too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)}"
        )


def _forward_of_volumes(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with VolumeCalls():
        return type(module).forward(module, *args, **kwargs)


def _words(module: nn.Module) -> set[str]:
    """Global names and attributes in the methods of the classes of `module`, torch's own left out."""
    names: set[str] = set()
    for kind in type(module).__mro__:
        if kind is object or kind.__module__.partition(".")[0] == "torch":
            continue
        for method in vars(kind).values():
            if isinstance(method, types.FunctionType):
                for code in _codes(method.__code__):
                    names.update(code.co_names)
    return names


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
