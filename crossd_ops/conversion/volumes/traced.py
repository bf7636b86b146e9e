"""Graphs of torch.fx on volumes: every call in them is made within `VolumeCalls`, by a node that names its function."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from ...functional import one_node
from .axes import Refusal
from .mode import VolumeCalls, active_mode


@one_node
def volume_function(name: str, *args: Any, **kwargs: Any) -> Any:
    """The function, or ".method" of the first argument, made for volumes where those come.

    Args:
        name: of the function, from its module on.
        args, kwargs: its arguments.
    """
    function = _function(name)
    try:
        if active_mode() is not None:
            return function(*args, **kwargs)
        with VolumeCalls():
            return function(*args, **kwargs)
    except Refusal as refusal:
        raise TypeError(f"model: expected a graph that works on volumes too, got one that {refusal}") from None


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    if name.startswith("."):
        return lambda self, *args, **kwargs: getattr(self, name[1:])(*args, **kwargs)
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module or "builtins"), function)  # type: ignore[no-any-return]


def _name_of(function: Any) -> str:
    """A name by which `_function` finds it.

    Raises:
        TypeError: there is none.
    """
    name: str = torch.fx.node._get_qualified_name(function)
    try:
        found = _function(name)
    except (ImportError, AttributeError):
        found = None
    if found is not function:
        raise TypeError(f"model: expected a graph of functions that can be imported, got {name}")
    return name


def nodes_of(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes of its graph."""
    return [*module.graph.nodes]


def lift_nodes(nodes: Iterable[fx.Node], undo: bool = False) -> bool:
    """Lets the calls of these nodes be those of `volume_function`, in place; `undo`: the other way around.

    Returns:
        Whether there were any.
    """
    changed = False
    for node in nodes:
        lifted = node.op == "call_function" and node.target is volume_function
        changed = changed or lifted is undo
        if undo and lifted:
            name, *rest = node.args
            node.op = "call_method" if str(name).startswith(".") else "call_function"
            node.target = str(name)[1:] if node.op == "call_method" else _function(str(name))
            node.args = tuple(rest)
        elif not undo and not lifted and node.op in ("call_function", "call_method"):
            name = f".{node.target}" if node.op == "call_method" else _name_of(node.target)
            node.op, node.target, node.args = "call_function", volume_function, (name, *node.args)
    return changed
