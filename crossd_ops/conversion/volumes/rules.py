"""The rules by which calls of torch are made for volumes: one small function for each kind, registered by names."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .axes import Refusal, axes_of

Rule = Callable[["Call"], Any]

_OWNERS: tuple[Any, ...] = (torch, Tensor, F, torch.special, torch.linalg)
# Called with volumes, these return a map of the same axes, or nothing that has axes: no rule is asked.
KEEPING: set[Any] = set()
RULES: dict[Any, Rule] = {}
ALWAYS: set[Any] = set()
# The names under which functions were registered: torch.compile does not tell every one's own.
NAMES: dict[Any, str] = {}
# Attributes of tensors; by themselves, as torch.compile, which does not show us these, cannot look them up.
GETTERS: dict[Any, Rule] = {}
# Names of the functions that enter `VolumeCalls`, in the forward pass and whenever they are called again.
LOOKING_ON = ("watched_method", "watched_hook", "volume_function")


class Call:
    """A call with at least one tensor that has the axes of a volume.

    Attributes:
        function: of torch.
        args, kwargs: its arguments; a rule may change them.
        endless: whether volumes go on in front and behind as they end, instead of with zeros; see `VolumeCalls`.
    """

    def __init__(self, function: Any, args: Iterable[Any], kwargs: dict[str, Any], endless: bool) -> None:
        self.function, self.endless = function, endless
        self.args = [*args]
        self.kwargs = {**kwargs}

    @property
    def tensor(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else self.kwargs.get("input")

    @property
    def name(self) -> str:
        """The name under which the function was registered."""
        return NAMES[self.function]

    @property
    def axes(self) -> str:
        """The letters of the first argument.

        Raises:
            Refusal: it has none, which rules that are about its axes cannot do without.
        """
        axes = axes_of(self.tensor)
        if not axes:
            raise Refusal("a map of two axes together with a volume")
        return axes

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """The argument at `position`, or by one of these names."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def change(self, position: int, *names: str, value: Any) -> None:
        """Puts `value` where `argument` finds it."""
        if len(self.args) > position:
            self.args[position] = value
        else:
            self.kwargs[next((name for name in names if name in self.kwargs), names[0])] = value

    def several(self, *names: str) -> list[Any]:
        """Numbers that come one by one or as one sequence, after the first argument: of permute, view, expand."""
        if len(self.args) == 2 and isinstance(self.args[1], tuple | list):
            return [*self.args[1]]
        if len(self.args) > 1:
            return [*self.args[1:]]
        value = next((self.kwargs[name] for name in names if name in self.kwargs), ())
        return [*value] if isinstance(value, tuple | list) else [value]

    def run(self) -> Any:
        """The call as it is now."""
        return self.function(*self.args, **self.kwargs)

    def lifted(self) -> Any:
        """The call as it is now, which differs from what the network asked for.

        Raises:
            Refusal: it would be made again without us.
        """
        refuse_if_unseen_later()
        return self.run()


def refuse_if_unseen_later() -> None:
    """Raises where a function that the backward pass calls again, without our looking on, makes a call to be lifted.

    `torch.utils.checkpoint` and autograd functions call what they are given; methods of the network look on themselves.

    Raises:
        Refusal: such a function is at work.
    """
    if torch.compiler.is_compiling():
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in LOOKING_ON:
        module = frame.f_globals.get("__name__")
        if module in ("torch.utils.checkpoint", "torch.autograd.function"):
            raise Refusal(
                f"in a function that {module} calls by itself: make it a method of the network, or a module, as only "
                "these are made for volumes in the backward pass too"
            )
        frame = frame.f_back


def refuse_if_in_code() -> None:
    """Raises where the code of a network, and no hook on one of its modules, makes the call.

    Raises:
        Refusal: what is made of the map outside of torch cannot be seen.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "torch.nn.modules.module":
        if frame.f_code.co_name in LOOKING_ON and frame.f_code.co_name != "watched_hook":
            raise Refusal("which takes a map out of torch, where nobody sees what is done to its axes")
        frame = frame.f_back


def named(*names: str) -> list[Any]:
    """The functions of torch, torch.nn.functional and methods of tensors by these names, whichever there are.

    Of `__add__` and the like also the operators themselves, which torch.export's strict mode shows in their place.
    """
    found = []
    for name in names:
        if name.startswith("__"):
            found += [getattr(Tensor, name, None), vars(operator).get(name)]
        else:
            found += [getattr(owner, name, None) for owner in _OWNERS]
    return [function for function in found if callable(function)]


def getter(name: str) -> Any:
    """What torch calls where an attribute of a tensor is read."""
    return getattr(Tensor, name).__get__


def rule(*names: str, always: bool = False) -> Callable[[Rule], Rule]:
    """Registers a rule for the functions of `named`; `always`: also where no argument has the axes of a volume."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(named(*names), function))
        for name in names:
            NAMES.update(dict.fromkeys(named(name), name))
        if always:
            ALWAYS.update(named(*names))
        return function

    return register


def keeping(*names: str) -> None:
    """Registers functions that leave the axes as they are, or ask a volume for something else than an axis."""
    KEEPING.update(named(*names))
