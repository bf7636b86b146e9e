"""What the whole head asks of memory: counted as the other kernels (metering.py)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC
from .cuda_head_harness import EmulatedHead, HeadBackward, HeadForward
from .metering import Launch, Meter


@dataclass(frozen=True)
class WholeHeadCase:
    """The head of a layer in training, with every gradient, one beside that of the input, or without
    that."""

    samples: int
    channels: int
    rows: int
    columns: int
    input: torch.dtype = torch.float32
    channels_last: bool = False
    need_input: bool = True

    def measure(self, direction: str, csrc: Path = CSRC) -> tuple[Launch, ...]:
        """``direction``: "forward" or "backward"."""
        head = _metered(csrc)
        generator = torch.Generator().manual_seed(1)
        sizes = (self.samples, self.channels, self.rows, self.columns)
        input = torch.randn(sizes, generator=generator).to(self.input)
        if self.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        shapes = ((16, self.channels), (16,), (16,), (16,), (4, 16), (4,))
        parameters = [torch.randn(shape, generator=generator) for shape in shapes]
        shift, statistics, *used = head.predict_shift(input, parameters, None, 1e-5, False)
        if direction == "backward":
            mean, variance = used
            head.predict_shift_backward(
                torch.ones_like(shift),
                input,
                parameters,
                (mean, variance),
                True,
                1e-5,
                statistics,
                False,
                input.clone() if self.need_input else None,
                self.need_input,
            )
        return head.launches


class _MeteredHead(EmulatedHead):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(
        self, direction: str, problem: HeadForward | HeadBackward, workspace: torch.Tensor, **tensors: torch.Tensor
    ) -> None:
        run = functools.partial(super()._run, direction, problem, workspace)
        self.launches = self._meter.measure(run, **tensors)


@functools.cache
def _metered(csrc: Path) -> _MeteredHead:
    return _MeteredHead(csrc)
