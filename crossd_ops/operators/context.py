"""What surrounds a call: torch's function transforms, tracers, autocast; of most torch has no public way to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

Result = TypeVar("Result")


def transformed() -> bool:
    """Whether a tensor may carry a derivative that `requires_grad` does not show: torch.func, or forward-mode duals."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apply_of(function: type[torch.autograd.Function]) -> Any:
    """What `function.apply` calls in the end, without the 6 microseconds in which it looks for torch.func.

    For callers that know of none, and that torch.compile does not trace.
    """
    parent: Any = super(torch.autograd.Function, function)
    return parent.apply


def nested_forward_mode() -> bool:
    """Whether torch.func's forward mode is on twice: there, torch makes derivatives of a Function silently zero."""
    stack = get_interpreter_stack() or ()
    return sum(level.key() == TransformType.Jvp for level in stack) > 1


def jit_tracing() -> bool:
    """Whether torch.jit.trace is tracing, which follows torch's own operations alone."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()  # Dynamo does not follow the second question


def with_plain_sizes(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """What `function` returns, to which sizes are plain numbers also while torch.jit.trace records what they decide.

    For checks, and for sizes that never vary.
    """
    if not jit_tracing():
        return function(*arguments, **options)
    tracing: Any = torch._C
    state = tracing._get_tracing_state()
    tracing._set_tracing_state(None)
    try:
        return function(*arguments, **options)
    finally:
        tracing._set_tracing_state(state)


def autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The type that autocast wants of kernels made of `weight`; None where it is off, or leaves float64 alone."""
    if not torch._C._is_any_autocast_enabled():
        return None
    device_type = weight.device.type
    # Autocast does not know meta tensors, and raises.
    if weight.dtype is torch.float64 or device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)
