"""What a module has beside its own work, and what a replacement inherits of it: attributes, training flag, hooks."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from typing import Any

import torch
from torch import nn

from ...layers.conv2d import CrossDConv2d
from ...layers.conv3d import CrossDConv3d
from ..acs import ACSConv3d
from ..layers_2d import STANDARDIZED, timm_forward
from ..layers_3d import Conv3dSame
from .parameters import computed_by_hooks, refuse_computed

_CONVOLUTIONS: tuple[Any, ...] = (
    *(CrossDConv2d, CrossDConv3d, ACSConv3d, Conv3dSame),
    *(nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_HOOKS = (
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
_MEMBERS = ("_parameters", "_buffers", "_modules")


def refuse_set_methods(name: str, module: nn.Module, replaced: bool) -> None:
    """Raises where a method was set on the module itself, as wrappers do: what it closes over would not be copied.

    A method of the module's own class in another's place (`module.forward = module.forward_fused`) is copied right.
    """
    if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
        return  # TorchScript, and what torch.compile made, which is compiled anew in a copy
    for attribute, value in vars(module).items():
        if not inspect.isroutine(inspect.getattr_static(type(module), attribute, None)):
            continue
        if replaced or not _is_own_method(module, value):
            raise TypeError(
                f"{name}: expected the {attribute} of {type(module).__name__}, got one set on the module "
                f"({getattr(value, '__qualname__', type(value).__name__)}), which a copy may run on the original; "
                "remove what wraps the module first"
            )


def _is_own_method(module: nn.Module, value: Any) -> bool:
    if not isinstance(value, types.MethodType) or value.__self__ is not module:
        return False
    return getattr(type(module), value.__func__.__name__, None) is value.__func__


def refuse_additions(name: str, module: nn.Module) -> None:
    """Raises where a module to replace has parameters, buffers, parts or hooks for which a replacement has no place."""
    refuse_computed(name, module, *computed_by_hooks(module))
    if found := [kind for kind in _REFUSED_HOOKS if not all(map(_is_of_a_norm, vars(module)[kind].values()))]:
        raise ValueError(
            f"{name}: expected no hooks on the state dict of a module that is replaced, got {', '.join(found)}; remove "
            "them, or leave this module out"
        )
    known = [member for kind in _MEMBERS for member in _fresh(_kind_of(module))[kind]]
    allowed = {*known, "parametrizations"} | ({"gain"} if timm_forward(module) in STANDARDIZED else set())
    if extra := [member for kind in _MEMBERS for member in vars(module)[kind] if member not in allowed]:
        raise ValueError(
            f"{name}: expected {' and '.join(known)} alone, got {', '.join(extra)} too, which the layer in its "
            "place would not use; leave this module out"
        )


def _is_of_a_norm(hook: Any) -> bool:
    """Whether torch's weight_norm or spectral_norm registered the hook, for checkpoints of older forms."""
    return str(getattr(hook, "__module__", "")).startswith("torch.nn.utils.")


def refuse_tensors_of_graphs(name: str, module: nn.Module) -> None:
    """Raises where a module keeps a result of autograd, such as its last loss, which torch cannot copy."""
    computed = computed_by_hooks(module)
    for attribute, value in (*vars(module).items(), *module._buffers.items()):
        if isinstance(value, torch.Tensor) and not value.is_leaf and attribute not in computed:
            raise TypeError(
                f"{name}.{attribute}: expected a tensor that can be copied, got one that is part of a graph of "
                "autograd; detach or delete it"
            )


def inherit(name: str, module: nn.Module, replacement: nn.Module, memo: dict[int, Any]) -> None:
    """Gives `replacement` what belongs to the place of `module`: attributes of users, training flag, hooks.

    Args:
        name: of the module, for errors.
        memo: of copy.deepcopy: what refers to copied modules shall refer to the copies.

    Raises:
        ValueError: the replacement means something else by the name of an attribute.
        TypeError: an attribute that cannot be copied.
    """
    replacement.training = module.training
    for attribute, value in attributes_of(module).items():
        if attribute in vars(replacement) or hasattr(replacement, attribute):
            raise ValueError(
                f"{name}.{attribute}: expected attributes by other names than {type(replacement).__name__} has, got "
                f"{value!r}; rename it"
            )
        try:
            vars(replacement)[attribute] = copy.deepcopy(value, memo)
        except Exception as error:
            raise TypeError(
                f"{name}.{attribute}: expected an attribute that copy.deepcopy copies, got {type(value).__name__}"
            ) from error
    for kind in _HOOKS:
        if hooks := getattr(module, kind, None):
            setattr(replacement, kind, copy.deepcopy(hooks, memo))


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What users and their classes have put on a module: beside what torch's or this package's class has itself."""
    found: dict[str, Any] = {}
    for kind in reversed(type(module).__mro__):
        if kind.__module__.partition(".")[0] in ("builtins", "torch", __name__.partition(".")[0]):
            continue
        for attribute, value in vars(kind).items():
            if inspect.ismemberdescriptor(value) and hasattr(module, attribute):  # a value in __slots__
                found[attribute] = getattr(module, attribute)
            elif not (attribute.startswith("_") or hasattr(value, "__get__")):  # neither a method nor a property
                found[attribute] = value
    found.update(vars(module))
    kind = _kind_of(module)
    return {name: value for name, value in found.items() if name not in _fresh(kind) and not hasattr(kind, name)}


def _kind_of(module: nn.Module) -> Any:
    """The known class whose forward it has."""
    return next((kind for kind in _CONVOLUTIONS if isinstance(module, kind)), nn.Module)


@functools.cache
def _fresh(kind: Any) -> dict[str, Any]:
    """The attributes of a module of this type on which nobody has put anything."""
    return vars(kind() if kind is nn.Module else kind(1, 1, 1, device="meta"))
