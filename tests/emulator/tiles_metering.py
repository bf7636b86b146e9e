"""What the convolution in tiles asks of memory: counted as the other kernels (metering.py)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC
from .metering import Launch, Meter
from .tiles_harness import EmulatedTiles, TilesInputProblem, TilesProblem


@dataclass(frozen=True)
class TilesCase:
    """Kernels K x K, of images between borders that keep their size, with a bias."""

    samples: int
    in_channels: int
    out_channels: int
    side: int
    kernel: int = 3
    stride: int = 1
    image: torch.dtype = torch.bfloat16

    def measure(self, direction: str = "forward", csrc: Path = CSRC) -> tuple[Launch, ...]:
        """``direction``: "forward", or "input" for its gradient."""
        tiles = _metered_tiles(csrc)
        image = torch.randn(self.samples, self.in_channels, self.side, self.side).to(self.image)
        memory = (self.samples, self.kernel, self.kernel, self.out_channels, self.in_channels)
        kernels = torch.randn(memory).to(self.image).permute(0, 3, 4, 1, 2)
        image = image.contiguous(memory_format=torch.channels_last)
        if direction == "forward":
            bias = torch.randn(self.out_channels).to(self.image)
            tiles.convolve(image, kernels, bias, self.stride, self.kernel // 2)
        else:
            side = (self.side + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
            grad = torch.randn(self.samples, self.out_channels, side, side).to(self.image)
            grad = grad.contiguous(memory_format=torch.channels_last)
            tiles.input_gradient(grad, kernels, (self.side, self.side), self.stride, self.kernel // 2)
        return tiles.launches


class _MeteredTiles(EmulatedTiles):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, launcher: str, problem: TilesProblem | TilesInputProblem, **tensors: torch.Tensor) -> None:
        self.launches = self._meter.measure(functools.partial(super()._run, launcher, problem), **tensors)


@functools.cache
def _metered_tiles(csrc: Path) -> _MeteredTiles:
    return _MeteredTiles(csrc)
