"""What shifted columns, and their gradients, ask of memory: counted as the other kernels (metering.py)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC
from .metering import Launch, Meter
from .shifted_columns_harness import EmulatedShiftedColumns, ShiftedColumnsProblem


@dataclass(frozen=True)
class ShiftedColumnsCase:
    """Of weights K x K x K, between borders that keep the size; volumes, or images and the weight's middle slice."""

    samples: int
    channels: int
    side: int
    kernel: int = 3
    image: torch.dtype = torch.float32
    volume: bool = False

    def measure(self, direction: str, csrc: Path = CSRC) -> tuple[Launch, ...]:
        """``direction``: "forward", "backward" for what is seen and the shift, or "image"."""
        columns = _metered_columns(csrc)
        format = torch.channels_last_3d if self.volume else torch.channels_last
        sides = (self.side,) * (3 if self.volume else 2)
        image = torch.randn(self.samples, self.channels, *sides).to(self.image).contiguous(memory_format=format)
        shift = torch.rand(self.samples, 3, dtype=torch.promote_types(self.image, torch.float32))
        place = None if self.volume else (0, self.kernel // 2)
        problem = columns.problem(image, (self.kernel,) * 3, place, padding=self.kernel // 2)
        made = columns.image_to_columns(problem, image, shift)
        if direction != "forward":
            seen, _ = columns.gradient(problem, made, image, shift)
            if direction == "image":
                columns.seen_to_image(problem, seen, image)
        return columns.launches


class _MeteredShiftedColumns(EmulatedShiftedColumns):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, operator: str, problem: ShiftedColumnsProblem, **tensors: torch.Tensor) -> None:
        run = functools.partial(super()._run, operator, problem, **tensors)
        self.launches = self._meter.measure(run, **tensors)


@functools.cache
def _metered_columns(csrc: Path) -> _MeteredShiftedColumns:
    return _MeteredShiftedColumns(csrc)
