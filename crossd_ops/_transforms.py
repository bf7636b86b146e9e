"""Which of torch's function transforms are active; torch has no public way to ask."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad


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
