"""Parameters of a convolution on their way into its twin, and those that are no parameters but computed at each use."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ...layers.plain_tensor import plain_tensor
from ..layers_2d import WeightStandardization


def refuse_computed(name: str, module: nn.Module, *parameters: str, otherwise: str = "") -> None:
    """Raises where a weight or a bias of layer `name` is not a parameter that can be read.

    A constraint would not hold for a weight of another number of axes, and reading one may change it: spectral_norm
    iterates. `WeightStandardization` of `weights_3d` is known, and taken as it is.

    Args:
        name: of the layer, for errors.
        module: a convolution.
        parameters: their names.
        otherwise: what else the caller could do, for the error.

    Raises:
        TypeError: a lazy layer.
        ValueError: a computed one, with what computes it and the call that removes that.
    """
    for parameter in parameters:
        if isinstance(module._parameters.get(parameter), nn.parameter.UninitializedParameter):
            raise TypeError(
                f"{name}: expected a {parameter}, got a lazy {type(module).__name__} without: run the model on an "
                "input first"
            )
        if parameter in module._parameters or _is_standardized(module, parameter):
            continue
        maker, remedy = _maker_of(module, parameter)
        raise ValueError(
            f"{name}: expected a {parameter} that is a parameter, got one that is computed ({maker}), a constraint "
            f"that would not hold for the layer in its place: {remedy}{otherwise}"
        )


def present_value(name: str, module: nn.Module, parameter: str) -> Tensor | None:
    """A parameter of layer `name`, or what its parametrisation makes of it in evaluation; the layer is left as it is.

    Raises:
        ValueError: it is computed by a hook, as pruning does, or is another one whenever it is read.
    """
    if not parametrize.is_parametrized(module, parameter):
        refuse_computed(name, module, parameter)
        return module._parameters[parameter]
    steps: Any = copy.deepcopy(module.parametrizations[parameter]).eval()  # type: ignore[index, union-attr]
    devices = {tensor.device.index for tensor in steps.parameters() if tensor.is_cuda}
    with torch.enable_grad(), torch.random.fork_rng(devices):
        value, again = steps(), steps()
    if not torch.allclose(value, again, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            f"{name}: expected a {parameter} that is the same whenever it is read, got one that changes "
            f"({_maker_of(module, parameter)[0]})"
        )
    result: Tensor = value
    return result


def _is_standardized(module: nn.Module, parameter: str) -> bool:
    if parameter != "weights_3d" or not parametrize.is_parametrized(module, parameter):
        return False
    steps: Any = module.parametrizations[parameter]  # type: ignore[index]
    return len(steps) == 1 and isinstance(steps[0], WeightStandardization)


def _maker_of(module: nn.Module, parameter: str) -> tuple[str, str]:
    """What computes a parameter, and what a user should do about it."""
    keeps = f", which keeps the present {parameter}"
    if parametrize.is_parametrized(module, parameter):
        steps: Any = module.parametrizations[parameter]  # type: ignore[index]
        makers = ", ".join(type(step).__name__.lstrip("_") for step in steps)
        return makers, f"call torch.nn.utils.parametrize.remove_parametrizations(layer, {parameter!r}) first{keeps}"
    for computed, hook in _hooks_that_compute(module):
        if computed == parameter and isinstance(hook, prune.BasePruningMethod):
            return "pruning", f"call torch.nn.utils.prune.remove(layer, {parameter!r}) first{keeps}"
        if computed == parameter:
            kind = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            return kind, f"call torch.nn.utils.remove_{kind}(layer, {parameter!r}) first{keeps}"
    return "by code that is not known", f"make {parameter} a parameter first"


def _hooks_that_compute(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that torch's hooks before a forward compute anew for each, with the hooks: pruning and older norms."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            yield hook._tensor_name, hook
        elif isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name, hook


def computed_by_hooks(module: nn.Module) -> dict[str, Tensor]:
    """The values that such hooks left on a module: of the last forward, to be replaced in the next one."""
    values = {name: vars(module).get(name) for name, _ in _hooks_that_compute(module)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def own_parameter(value: Tensor, requires_grad: bool = True) -> nn.Parameter:
    """A parameter with a copy of `value`, plain."""
    return nn.Parameter(plain_tensor(value).detach().clone(), requires_grad)


def with_bias_of(twin: nn.Module, module: Any) -> nn.Module:
    """`twin`, with a copy of the bias of `module` if it has one."""
    if module.bias is not None:
        twin.bias = own_parameter(module.bias, module.bias.requires_grad)
    return twin
