"""What making columns, and taking them back, asks of memory: counted as the other kernels (metering.py)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC
from .columns_harness import ColumnsProblem, EmulatedColumns
from .metering import Launch, Meter


@dataclass(frozen=True)
class ColumnsCase:
    """Columns of kernels K x K, of images between borders that keep their size; "backward" takes them back."""

    samples: int
    channels: int
    side: int
    kernel: int = 3
    stride: int = 1
    image: torch.dtype = torch.float32
    channels_last: bool = False

    def measure(self, direction: str, csrc: Path = CSRC) -> tuple[Launch, ...]:
        columns = _metered_columns(csrc)
        image = torch.randn(self.samples, self.channels, self.side, self.side).to(self.image)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        both = ((number,) * 2 for number in (self.kernel, self.stride, self.kernel // 2, 1))
        numbers = tuple(both)
        made = columns.image_to_columns(image, *numbers)
        if direction == "backward":
            columns.columns_to_image(made, image, *numbers)
        return columns.launches


class _MeteredColumns(EmulatedColumns):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, operator: str, problem: ColumnsProblem, **tensors: torch.Tensor) -> None:
        run = functools.partial(super()._run, operator, problem, **tensors)
        self.launches = self._meter.measure(run, **tensors)


@functools.cache
def _metered_columns(csrc: Path) -> _MeteredColumns:
    return _MeteredColumns(csrc)
