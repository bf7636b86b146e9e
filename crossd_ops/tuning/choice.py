"""The library's choice among the methods of a convolution (csrc/convolution/choice.h), and choices in its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import tf32

_operators: Any = torch.ops.crossd_ops
METHODS = ("grouped", "loop", "matrix", "small", "tiles", "shared")


class Cost(NamedTuple):
    """What a method would take, by counting, building the kernels of a layer included."""

    possible: bool
    bytes: float
    multiply_adds: float
    seconds: float | None  # by csrc/convolution/gpu_costs.h; None on the CPU


class Choice(NamedTuple):
    """What the library chooses for a problem; `costs`: of each method, and of "plain", one kernel for all samples."""

    key: tuple[int, ...]  # tells one problem from another
    method: str
    why: str
    costs: dict[str, Cost]

    @property
    def possible(self) -> list[str]:
        """The methods that this problem can have."""
        return [name for name in METHODS if self.costs[name].possible]


def explain(
    input: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    place: Sequence[int],
    *,
    backward: bool,
    on_gpu: bool = False,
    need_input: bool = True,
) -> Choice:
    """The choice for a call of the operator `convolution`, or of its derivative, of which nothing is computed.

    Without a shift for a call of `sample_convolution`, whose weight holds the kernels of each sample.
    `on_gpu`: as if the tensors lay on a GPU; `need_input`: whether the derivative is the input's too. Raises ValueError
    where the operator would.
    """
    tf32.follow_torch(input)
    found = json.loads(_operators.explain_convolution(input, weight, shift, place, backward, on_gpu, need_input))
    costs = {name: Cost(**cost) for name, cost in found["costs"].items()}
    return Choice(tuple(found["key"]), found["chosen"], found["why"], costs)


def set_method(key: Sequence[int], method: str | None) -> None:
    """From now on, in this process, the problem with this key takes `method`; None: what the library chooses."""
    _operators.set_convolution_method(key, method)
