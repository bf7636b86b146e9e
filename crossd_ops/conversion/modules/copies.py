"""Walking a model's modules, and copying a model with some of them replaced."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Container, Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .inheritance import inherit, refuse_additions, refuse_set_methods, refuse_tensors_of_graphs
from .parameters import computed_by_hooks, own_parameter


def walk(model: nn.Module, whole: tuple[type[nn.Module], ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Every distinct module once, by its first name, parents first; the modules inside those of `whole` are left out.

    Raises:
        TypeError: `model` is no module, or a scripted one, whose layers cannot be exchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model: expected a module of Python code, got a TorchScript module; convert before scripting")
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        yield name, module
        if not isinstance(module, whole):
            prefix = f"{name}." if name else ""
            children = [(prefix + child, part) for child, part in module._modules.items() if part is not None]
            waiting.extend(reversed(children))


def matching(
    model: nn.Module, patterns: str | Iterable[str], kinds: tuple[type[nn.Module], ...], argument: str
) -> set[nn.Module]:
    """The modules of `kinds` that have a name, the first or another, of `fnmatch` patterns; each must have matches.

    Raises:
        TypeError, ValueError: beginning with the name of the caller's `argument`.
    """
    wanted = [patterns] if isinstance(patterns, str) else [*patterns]
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise TypeError(f"{argument}: expected names or patterns of names, got {wanted!r}")
    named = [pair for pair in model.named_modules(remove_duplicate=False) if isinstance(pair[1], kinds)]
    found: set[nn.Module] = set()
    missing = []
    for pattern in wanted:
        matches = {module for name, module in named if fnmatch.fnmatchcase(name, pattern)}
        found |= matches
        missing += [] if matches else [pattern]
    if missing or not wanted:
        raise ValueError(f"{argument}: expected names or patterns of convolutions of the model, got {missing}")
    return found


def copy_with(model: nn.Module, replacements: Mapping[nn.Module, nn.Module], prefix: str = "") -> nn.Module:
    """A deep copy of `model` in which each key of `replacements` is exchanged for its value, which is not copied.

    Wherever the model refers to a replaced module, under several names or in plain attributes, the copy refers to the
    one replacement; what else is shared stays shared. A replacement inherits what belongs to its place: attributes that
    users have put on what it replaces, the training flag, forward and backward hooks.

    Args:
        model: any module; left as it is.
        replacements: by the modules of `model` in whose place they come.
        prefix: of the names in errors, where `model` is a part of another.

    Raises:
        ValueError, TypeError: as `check_copy`; also an attribute that a replacement cannot have.
    """
    check_copy(model, replacements, prefix)
    names = {module: name for name, module in walk(model)}
    # deepcopy takes what its memo holds for a copy made earlier: a replaced module is not even read.
    memo: dict[int, object] = {id(module): replacement for module, replacement in replacements.items()}
    for module in names:
        if module not in replacements:
            memo.update((id(value), value.detach().clone()) for value in computed_by_hooks(module).values())
    result = copy.deepcopy(model, memo)
    for module, replacement in replacements.items():
        inherit(_path(prefix, names[module]), module, replacement, memo)
    return result


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy with plain parameters, also of what `copy.deepcopy` does not take: tensors that hooks compute."""
    memo: dict[int, object] = {}
    for _, module in walk(model):
        memo.update((id(value), value.detach().clone()) for value in computed_by_hooks(module).values())
        for parameter in module._parameters.values():
            if parameter is not None and not is_lazy(parameter):
                memo[id(parameter)] = own_parameter(parameter, parameter.requires_grad)
    return copy.deepcopy(model, memo)


def check_copy(model: nn.Module, replaced: Container[nn.Module], prefix: str = "") -> None:
    """Refuses what a copy of `model` with other modules in place of those `replaced` would not do as it does.

    Raises:
        TypeError: a method was set on one of its modules, as wrappers do with `forward`; or one has an attribute that
            is a tensor of a graph, which cannot be copied.
        ValueError: a replaced module has hooks on its state dict, more parameters, buffers or parts than its class, or
            shares a parameter with another module.
    """
    for name, module in walk(model):
        path = _path(prefix, name)
        refuse_set_methods(path, module, module in replaced)
        refuse_tensors_of_graphs(path, module)
        if module in replaced:
            refuse_additions(path, module)
    check_ties(model, replaced)


def _path(prefix: str, name: str) -> str:
    return (prefix + name).rstrip(".") or "model"


def check_ties(model: nn.Module, replaced: Container[nn.Module]) -> None:
    """Refuses a replaced module with a parameter that another module holds too: the replacement would untie them.

    Raises:
        ValueError: naming both parameters.
    """
    holders: dict[nn.Parameter, tuple[str, nn.Module]] = {}
    for prefix, module in walk(model):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            path = f"{prefix}.{name}" if prefix else name
            other_path, other = holders.setdefault(parameter, (path, module))
            if other is not module and (module in replaced or other in replaced):
                raise ValueError(
                    f"{path}: expected a parameter of this module alone, got the one that is {other_path} too; untie "
                    "them, or leave these modules out"
                )
