"""Walking a model's modules, and copying a model with some of them replaced."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Container, Iterable, Iterator, Mapping

import torch
from torch import nn

_CARRIED_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)
# These know the names of parameters, which a replacement need not have.
_REFUSED_HOOKS = (
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


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


def copy_with(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A deep copy of `model` in which each key of `replacements` is exchanged for its value, which is not copied.

    Wherever the model refers to a replaced module, under several names or in plain attributes, the copy refers to the
    one replacement; what else is shared stays shared. Replacements get the forward and backward hooks of what they
    replace.

    Raises:
        ValueError: a replaced module has hooks on its state dict, or shares a parameter with another module.
    """
    names = {module: name for name, module in walk(model)}
    check_ties(model, replacements)
    for module in replacements:
        found = [kind for kind in _REFUSED_HOOKS if getattr(module, kind, None)]
        if found:
            raise ValueError(
                f"{names[module] or 'model'}: expected no hooks on the state dict of a module that is replaced, got "
                f"{', '.join(found)}; remove them, or leave this module out"
            )
    # deepcopy takes what its memo holds for a copy made earlier: a replaced module is not even read.
    memo: dict[int, object] = {id(module): replacement for module, replacement in replacements.items()}
    result = copy.deepcopy(model, memo)
    for module, replacement in replacements.items():
        for kind in _CARRIED_HOOKS:
            if hooks := getattr(module, kind, None):
                setattr(replacement, kind, copy.deepcopy(hooks, memo))
    return result


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
