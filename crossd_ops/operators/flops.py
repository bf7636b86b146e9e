"""What torch.utils.flop_counter counts for the operators of the layer: its convolutions, as of `torch.nn.Conv2d`.

Counting follows torch's operators, and those inside of ours are out of its sight. Building the kernels, 81
multiply-adds for nine elements of a 3 x 3 x 3 weight, is left out, as the counter leaves out all but matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from ..library import loaded
from .convolution import parts_of


def _convolution(
    input: Any,
    weight: Sequence[int],
    shift: Any,
    bias: Any,
    place: Sequence[int],
    *,
    out_shape: Sequence[int],
    **_: Any,
) -> int:
    return _multiply_adds(out_shape, weight, place)


def _convolution_backward(
    grad: Sequence[int],
    input: Any,
    weight: Sequence[int],
    shift: Any,
    place: Sequence[int],
    need_input: bool,
    need_weight: bool,
    need_shift: bool,
    **_: Any,
) -> int:
    products = int(need_input) + int(need_weight or need_shift)
    return products * _multiply_adds(grad, weight, place)


def _multiply_adds(output: Sequence[int], weight: Sequence[int], place: Sequence[int]) -> int:
    """Twice their number: every element of the output (B, O, ...) takes one for each element of its kernel."""
    *_, dim, index = parts_of(place, weight[2:], len(output) - 2)
    kernel = [size for axis, size in enumerate(weight[2:]) if index is None or axis != dim]
    return 2 * math.prod(output) * weight[1] * math.prod(kernel)


def _sample_convolution(
    input: Any, weight: Sequence[int], bias: Any, place: Any, *, out_shape: Sequence[int], **_: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[2:])


def _sample_convolution_backward(
    grad: Sequence[int], input: Any, weight: Sequence[int], place: Any, need_input: bool, need_weight: bool, **_: Any
) -> int:
    return 2 * math.prod(grad) * math.prod(weight[2:]) * (need_input + need_weight)


def register() -> None:
    """Makes the counts known to torch; a library that did not load has no operators.

    Torch refuses a second count of an operator, which a reload of this package brings.
    """
    if loaded.load_error is None:
        operators: Any = torch.ops.crossd_ops
        formulas: dict[Any, Any] = {
            operators.convolution: _convolution,
            operators.convolution_backward: _convolution_backward,
            operators.sample_convolution: _sample_convolution,
            operators.sample_convolution_backward: _sample_convolution_backward,
        }
        for operator, formula in formulas.items():
            flop_registry.pop(operator, None)
            register_flop_formula(operator)(formula)
