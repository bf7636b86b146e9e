"""Each method of each convolution: its costs by counting, and its time on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
        backward = direction == "backward"
        found = choice.explain(*tensors, problem.place, backward=backward, on_gpu=on_gpu, need_input=problem.need_input)
        rows.append(Row(problem, layers, direction, found))
    return rows


def _in_format(make: Callable[..., Tensor], problem: Problem) -> Tensor:
    """An input of the problem's sizes that lies as they say."""
    if not problem.channels_last:
        return make(*problem.input)
    samples, channels, *sizes = problem.input
    return make(samples, *sizes, channels).movedim(-1, 1)


class Calls(NamedTuple):
    """One direction of a problem, on random numbers: the plain convolution, and the library's by whatever is chosen."""

    plain: Callable[[], object]
    ours: Callable[[], object]


def calls_of(problem: Problem, device: torch.device) -> dict[str, Calls]:
    """By direction."""

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=problem.dtype, device=device)

    input, weight, shift = _in_format(random, problem), random(*problem.weight), random(problem.input[0], 3)
    stride, padding, dilation, groups = problem.numbers()
    kernel = random(*problem.weight[:2], *problem.kernel)
    if problem.channels_last:  # as a network's .to(memory_format=...) has it
        kernel = kernel.to(memory_format=torch.channels_last if problem.axes == 2 else torch.channels_last_3d)
    plain = stride, padding, dilation, False, [0] * problem.axes, groups
    grad = torch.randn_like(torch.ops.aten.convolution(input, kernel, None, *plain))
    of_plain, of_ours = torch.ops.aten.convolution_backward, _operators.convolution_backward
    return {
        "forward": Calls(
            lambda: torch.ops.aten.convolution(input, kernel, None, *plain),
            lambda: _operators.convolution(input, weight, shift, None, problem.place),
        ),
        "backward": Calls(
            lambda: of_plain(grad, input, kernel, None, *plain, [problem.need_input, True, False]),
            lambda: of_ours(grad, input, weight, shift, problem.place, problem.need_input, True, True),
        ),
    }


def measure(rows: Sequence[Row], device: torch.device, turns: int, progress: Callable[[], object]) -> None:
    """Times every method that the problem of these two directions can have, in turns, and the plain convolution."""
    calls = calls_of(rows[0].problem, device)
    for row in rows:
        before = row.choice.method if row.choice.why == "measured" else None
        try:
            row.seconds = clock.seconds_of(candidates(row, calls[row.direction]), device, turns, progress)
        finally:
            choice.set_method(row.choice.key, before)


def candidates(row: Row, calls: Calls) -> dict[str, Callable[[], object]]:
    """The plain convolution, and each method that is possible, which a call sets for the problem, and leaves there."""

    def forced(method: str) -> Callable[[], object]:
        def call() -> None:
            choice.set_method(row.choice.key, method)
            calls.ours()

        return call

    return {PLAIN: calls.plain} | {method: forced(method) for method in row.choice.possible}
