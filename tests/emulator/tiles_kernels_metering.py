"""What the gradient of the kernels in tiles asks of memory: counted as the other kernels (metering.py)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC
from .metering import Launch, Meter
from .tiles_kernels_harness import EmulatedTilesKernels, TilesKernelsProblem


@dataclass(frozen=True)
class TilesKernelsCase:
    """Kernels K x K, of images between borders that keep their size; "backward" alone."""

    samples: int
    in_channels: int
    out_channels: int
    side: int
    kernel: int = 3
    stride: int = 1
    image: torch.dtype = torch.bfloat16

    def measure(self, direction: str = "backward", csrc: Path = CSRC) -> tuple[Launch, ...]:
        assert direction == "backward", direction
        tiles = _metered_tiles(csrc)
        out_side = (self.side - 1) // self.stride + 1
        image, grad = (
            torch.randn(self.samples, channels, side, side).to(self.image).contiguous(memory_format=torch.channels_last)
            for channels, side in ((self.in_channels, self.side), (self.out_channels, out_side))
        )
        tiles.gradient(grad, image, (self.kernel, self.kernel), self.stride, self.kernel // 2)
        return tiles.launches


class _MeteredTilesKernels(EmulatedTilesKernels):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, problem: TilesKernelsProblem, **tensors: torch.Tensor) -> None:
        self.launches = self._meter.measure(functools.partial(super()._run, problem), **tensors)


@functools.cache
def _metered_tiles(csrc: Path) -> _MeteredTilesKernels:
    return _MeteredTilesKernels(csrc)
