"""The mode in which a network's code runs on volumes: it sees every call of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...layers.leaf import WatchesNetworks, watching
from . import arrangement, indexing, pointwise, reductions, views, windows  # noqa: F401  they register their rules
from .axes import VOLUME, Refusal, axes_of, with_axes
from .rules import ALWAYS, GETTERS, KEEPING, RULES, Call
from .views import without_axes


class VolumeCalls(WatchesNetworks):
    """Within it, calls that code for images makes are made for volumes (B, C, D, H, W), or refused by name.

    What acts on elements or channels passes, by the lists of `rules`; what names axes of a map is made for all of its
    axes; whatever else gets a volume raises.

    Layers of this package, whose code knows what a volume is, run without it.

    Args:
        endless: volumes go on in front and behind as they end, where otherwise zeros are. So, and with weights that do
            not mix slices, a network sees in equal slices what it sees in one: the proof of `check_volumes`.
    """

    def __init__(self, endless: bool = False) -> None:
        super().__init__()
        self.endless = endless
        self._transforms = _transforms()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        if _transforms() != self._transforms and _batched(self._transforms):
            raise Refusal(described(func, args, kwargs, Refusal("within vmap, where maps have lost an axis unseen")))
        if func in KEEPING:
            if kwargs and kwargs.get("memory_format") is torch.channels_last and args[0].dim() == 5:
                kwargs = {**kwargs, "memory_format": torch.channels_last_3d}
            result = func(*args, **kwargs)
            axes = getattr(args[0] if args else kwargs.get("input"), "_volume_axes", None)
            return result if axes is None else with_axes(result, axes)
        if not kwargs and RULES.get(func) is pointwise.pointwise and _all_volumes(args):
            return func(*args)
        if func not in ALWAYS and not _any_volume(args) and not _any_volume(kwargs.values()):
            return without_axes(func(*args, **kwargs))
        rule = RULES.get(func)
        if rule is None and not torch.compiler.is_dynamo_compiling():
            rule = GETTERS.get(func)
        try:
            if rule is None:
                raise Refusal("which is not known for volumes")
            return rule(Call(func, args, kwargs, self.endless))
        except Refusal as refusal:
            raise Refusal(described(func, args, kwargs, refusal)) from None


def _transforms() -> int | None:
    """How many transforms of torch.func are at work; vmap around a whole network is not in its code."""
    return None if torch.compiler.is_dynamo_compiling() else torch._C._functorch.maybe_current_level()


def _batched(before: int | None) -> bool:
    """Whether vmap is among the transforms that came after so many."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(one.key() == torch._C._functorch.TransformType.Vmap for one in stack[before or 0 :])


def _all_volumes(values: Iterable[Any]) -> bool:
    """Whether they are whole volumes and numbers: what comes by far most often, and needs no second look."""
    return all(axes_of(value) == VOLUME if isinstance(value, Tensor) else not _is_sequence(value) for value in values)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _any_volume(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if axes_of(value):
                return True
        elif isinstance(value, tuple | list) and _any_volume(value):
            return True
    return False


def described(function: Any, args: Any, kwargs: Any, reason: Refusal) -> str:
    """The call, with tensors as their sizes, and why it is refused."""
    text = str(reason)
    if text.startswith("calls "):
        return text  # of a call within this one
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):
        name = str(getattr(getattr(function, "__self__", None), "__name__", name))
    shown = [_shown(value) for value in args] + [f"{key}={_shown(value)}" for key, value in kwargs.items()]
    return f"calls {name}({', '.join(shown)}): {text}"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return repr(value)


def active_mode() -> VolumeCalls | None:
    """The mode in which we are, if in one."""
    mode = watching()
    return mode if isinstance(mode, VolumeCalls) else None
