"""Parameters of a convolution on their way into its twin."""

from __future__ import annotations

from typing import Any

from torch import nn


def refuse_computed_weight(name: str, module: nn.Module) -> None:
    """Raises where the weight of layer `name` is not a parameter that can be read."""
    if isinstance(module._parameters.get("weight"), nn.parameter.UninitializedParameter):
        raise TypeError(
            f"{name}: expected a weight, got a lazy {type(module).__name__} without: run the model on an input first"
        )
    if "weight" not in module._parameters:
        raise ValueError(
            f"{name}: expected a weight that is a parameter, got one that is computed (weight_norm, spectral_norm, "
            "pruning, ...): remove the parametrisation, which keeps the present weight"
        )


def with_bias_of(twin: nn.Module, module: Any) -> nn.Module:
    """`twin`, with a copy of the bias of `module` if it has one."""
    if module.bias is not None:
        twin.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=module.bias.requires_grad)
    return twin
