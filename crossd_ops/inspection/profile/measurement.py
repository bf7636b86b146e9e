"""Each method of each convolution: its costs by counting, and its time on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...tuning import choice, clock
from .problems import Problem

_operators: Any = torch.ops.crossd_ops
PLAIN = "plain"  # one kernel for all samples: nn.Conv2d


@dataclass
class Row:
    """One direction of one convolution."""

    problem: Problem
    layers: list[str]
    direction: str  # "forward" or "backward"
    choice: choice.Choice
    seconds: dict[str, float] = field(default_factory=dict)  # of each method, and of "plain"; building kernels included

    @property
    def quickest(self) -> str | None:
        """The method that took the least time; None where nothing was measured."""
        measured = {name: seconds for name, seconds in self.seconds.items() if name != PLAIN}
        return min(measured, key=measured.__getitem__) if measured else None


def counted(problem: Problem, layers: list[str], *, on_gpu: bool) -> list[Row]:
    """Both directions, without a time. Nothing is allocated."""

    def sizes(*numbers: int) -> Tensor:
        return torch.empty(numbers, dtype=problem.dtype, device="meta")

    tensors = _in_format(sizes, problem), sizes(*problem.weight), sizes(problem.input[0], 3)
    rows = []
    for direction in ("forward", "backward"):
        found = choice.explain(*tensors, problem.place, backward=direction == "backward", on_gpu=on_gpu)
        rows.append(Row(problem, layers, direction, found))
    return rows


def _in_format(make: Callable[..., Tensor], problem: Problem) -> Tensor:
    """An input of the problem's sizes that lies as they say."""
    if not problem.channels_last:
        return make(*problem.input)
    samples, channels, *sizes = problem.input
    return make(samples, *sizes, channels).movedim(-1, 1)


def measure(rows: Sequence[Row], device: torch.device, turns: int, progress: Callable[[], object]) -> None:
    """Times every method that the problem of these two directions can have, in turns, and the plain convolution."""
    problem = rows[0].problem

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=problem.dtype, device=device)

    input, weight, shift = _in_format(random, problem), random(*problem.weight), random(problem.input[0], 3)
    stride, padding, dilation, groups = problem.numbers()
    zeros = [0] * problem.axes
    kernel = random(*problem.weight[:2], *problem.kernel)
    plain = stride, padding, dilation, False, zeros, groups
    grad = torch.randn_like(torch.ops.aten.convolution(input, kernel, None, *plain))
    of_plain = {
        "forward": lambda: torch.ops.aten.convolution(input, kernel, None, *plain),
        "backward": lambda: torch.ops.aten.convolution_backward(grad, input, kernel, None, *plain, [True, True, False]),
    }
    of_ours = {
        "forward": lambda: _operators.convolution(input, weight, shift, None, problem.place),
        "backward": lambda: _operators.convolution_backward(
            grad, input, weight, shift, problem.place, True, True, True
        ),
    }
    for row in rows:
        before = row.choice.method if row.choice.why == "measured" else None
        calls = {PLAIN: of_plain[row.direction]}
        calls |= {name: _forced(name, row.choice.key, of_ours[row.direction]) for name in row.choice.possible}
        try:
            row.seconds = clock.seconds_of(calls, device, turns, progress)
        finally:
            choice.set_method(row.choice.key, before)


def _forced(method: str, key: Sequence[int], call: Callable[[], object]) -> Callable[[], object]:
    def forced() -> None:
        choice.set_method(key, method)
        call()

    return forced
