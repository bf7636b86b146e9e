"""Parameters of a convolution on their way into its twin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...layers.plain_tensor import plain_tensor


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


def own_parameter(value: Tensor, requires_grad: bool = True) -> nn.Parameter:
    """A parameter with a copy of `value`, plain."""
    return nn.Parameter(plain_tensor(value).detach().clone(), requires_grad)


def with_bias_of(twin: nn.Module, module: Any) -> nn.Module:
    """`twin`, with a copy of the bias of `module` if it has one."""
    if module.bias is not None:
        twin.bias = own_parameter(module.bias, module.bias.requires_grad)
    return twin
