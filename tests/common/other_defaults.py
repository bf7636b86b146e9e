"""A plugin of pytest: wherever the package is at work, new tensors are float64 and on "meta" unless it says otherwise.

As after `torch.set_default_device` and `torch.set_default_dtype`, but for the tests' own tensors and layers, which are
made as ever: so the values that tests expect hold.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

import crossd_ops
from crossd_ops import conversion, planes, reference

LAYERS = (
    crossd_ops.CrossDConv2d, crossd_ops.CrossDConv2dEarly, crossd_ops.CrossDConv3d, conversion.ACSConv3d,
    conversion.CrossDConv2dSame, conversion.Conv3dSame, conversion.WeightStandardization,
)  # fmt: skip
METHODS = ("forward", "predict_shift", "predict_rotation", "fix_shift", "_apply", "_load_from_state_dict", "_padded")


def elsewhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under other defaults."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        before = torch.get_default_dtype()
        if before is torch.float64:  # within another call
            return function(*arguments, **options)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                return function(*arguments, **options)
        finally:
            torch.set_default_dtype(before)

    return call


def exchange() -> None:
    """Puts every public function and method, and the backward passes, under other defaults."""
    public = {
        function: elsewhere(function)
        for owner in (crossd_ops, conversion, planes, reference)
        for name, function in vars(owner).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "crossd_ops"]:
        for name, value in [*vars(module).items()]:
            if inspect.isfunction(value) and value in public:
                setattr(module, name, public[value])
    for layer in LAYERS:
        for name in METHODS:
            if name in vars(layer):
                setattr(layer, name, elsewhere(vars(layer)[name]))
    torch.Tensor.backward = elsewhere(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.autograd.grad = elsewhere(torch.autograd.grad)


exchange()
