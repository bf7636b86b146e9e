"""What can be read in the code of a module without running any of it."""

from __future__ import annotations

import builtins
import inspect
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# What torch.compile shows to a mode, and what our rules do with it can be compiled. It shows neither shapes nor pads.
_COMPILED = {
    "__class__", "__init__", "abs", "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "add_", "amax", "amin",
    "append", "avg_pool2d", "cat", "chunk", "clamp", "contiguous", "div", "dropout", "dropout2d", "exp",
    "flatten", "float", "forward", "gelu", "hardsigmoid", "hardswish", "interpolate", "items", "keys", "leaky_relu",
    "max_pool2d", "mean", "mul", "mul_", "ones_like", "relu", "relu6", "relu_", "sigmoid", "sigmoid_",
    "silu", "split", "sqrt", "stack", "sub", "sum", "tanh", "torch", "training", "values", "where", "zeros_like",
}  # fmt: skip


def compiles(module: nn.Module) -> bool:
    """Whether the forward of a module, and the functions that it names, are of what a compiled graph shows."""
    kind = type(module)
    functions: list[Any] = [inspect.getattr_static(kind, "forward", None), vars(module).get("forward")]
    functions = [getattr(function, "__func__", function) for function in functions if function is not None]
    seen: set[types.CodeType] = set()
    while functions:
        function = inspect.unwrap(functions.pop())
        if not isinstance(function, types.FunctionType):
            return False
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name in {name for code in _codes(function.__code__) for name in code.co_names}:
            found = _meaning(name, module, function)
            if isinstance(found, types.FunctionType):
                functions.append(found)
            elif found is None and name not in _COMPILED:
                return False
        if any(
            callable(_content(cell)) and not isinstance(_content(cell), type) for cell in function.__closure__ or ()
        ):
            return False
    return True


def _meaning(name: str, module: nn.Module, function: types.FunctionType) -> Any:
    """What `name` may be in the code of a module: a function to look at, something without code, or None."""
    for members in (vars(module), module._modules, module._parameters, module._buffers):
        if name in members:
            value = members[name]
            known = isinstance(value, types.FunctionType | nn.Module) or not callable(value)
            return value if isinstance(value, types.FunctionType) else True if known else None
    member = inspect.getattr_static(type(module), name, None)
    if isinstance(member, types.FunctionType):
        return True if member.__module__.partition(".")[0] == "torch" else member
    if member is not None and not hasattr(member, "__get__"):
        return True
    value = function.__globals__.get(name, getattr(builtins, name, None))
    if isinstance(value, types.FunctionType):
        return None if value.__module__.partition(".")[0] == "torch" else value
    return True if isinstance(value, types.ModuleType | type) or any(value is known for known in _BUILTINS) else None


_BUILTINS = (len, isinstance, range, enumerate, zip, list, tuple, dict, reversed, super, print, int, float, bool, sum)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def scripted(module: nn.Module) -> list[str]:
    """Names in the code of a module of what TorchScript has compiled: no mode sees what that calls."""
    kind = type(module)
    waiting = [
        *{id(member): member for owner in _own(kind) for member in _methods(owner)}.values(),
        *vars(module).values(),
    ]
    waiting = [inspect.unwrap(function) for function in waiting if isinstance(function, types.FunctionType)]
    found = {name for name, value in vars(module).items() if isinstance(value, _SCRIPTED)}
    seen: set[types.CodeType] = set()
    while waiting:
        function = waiting.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name, value in _named_values(function, kind):
            if isinstance(value, _SCRIPTED):
                found.add(name)
            elif isinstance(value, types.FunctionType) and value.__module__.partition(".")[0] != "torch":
                waiting.append(inspect.unwrap(value))
    return sorted(found)


_SCRIPTED = (torch.jit.ScriptFunction, torch.jit.ScriptModule)


def _named_values(function: types.FunctionType, kind: type) -> Iterator[tuple[str, Any]]:
    """What the names in a function may stand for: of its module, of modules named beside them, of what is around it."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    owners = [
        vars(value) for name in names if isinstance(value := function.__globals__.get(name), types.ModuleType | type)
    ]
    for name in names:
        for owner in (function.__globals__, *owners):
            if name in owner:
                yield name, owner[name]
        yield name, inspect.getattr_static(kind, name, None)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, _content(cell)


def called(module: nn.Module) -> set[str]:
    """Words of the code of a module but those that are attributes of it, such as a part named interpolate."""
    own = {*module._modules, *module._parameters, *module._buffers, *vars(module)}
    words = {
        name
        for owner in _own(type(module))
        for method in _methods(owner)
        for code in _codes(inspect.unwrap(method).__code__)
        for name in code.co_names
    }
    return {word for word in words - own if inspect.getattr_static(type(module), word, None) is None}


def _own(kind: type) -> list[type]:
    """The classes of a module but torch's."""
    return [owner for owner in kind.__mro__ if owner is not object and owner.__module__.partition(".")[0] != "torch"]


def _methods(owner: type) -> list[Any]:
    return [member for member in vars(owner).values() if isinstance(member, types.FunctionType)]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
