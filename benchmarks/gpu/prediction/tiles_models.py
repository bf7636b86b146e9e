"""Models of the convolution in tiles, as csrc/convolution/cuda/tiles_launch.cuh launches it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.models import AnyLaunch, model
from benchmarks.gpu.prediction.trace import Call

_MANY_ROWS, _FEW_ROWS, _COLUMNS, _WANTED_BLOCKS = 128, 64, 64, 512  # csrc/convolution/tiles_problem.h
_STEP_VECTORS, _THREADS, _VECTOR_BYTES, _LANES = 4, 128, 16, 32


@dataclass(frozen=True)
class TilesProblem:
    """A convolution in tiles: channels of a group, pixels of the result, elements of a kernel, and whole tensors."""

    samples: int
    groups: int
    in_channels: int
    out_channels: int
    pixels: int
    taps: int
    dtype: str
    arrays: dict[str, int]  # bytes of "input", "kernels" and "out", and of "bias"

    @property
    def rows(self) -> int:
        """Of a tile: pixels."""
        many, few = math.ceil(self.pixels / _MANY_ROWS), math.ceil(self.pixels / _FEW_ROWS)
        fills = many * _MANY_ROWS * 10 <= few * _FEW_ROWS * 11
        blocks = self.samples * self.groups * many * self.across
        return _MANY_ROWS if fills and blocks >= _WANTED_BLOCKS else _FEW_ROWS

    @property
    def across(self) -> int:
        """Tiles along the output channels."""
        return math.ceil(self.out_channels / _COLUMNS)

    @property
    def down(self) -> int:
        """Tiles along the pixels."""
        return math.ceil(self.pixels / self.rows)

    @property
    def blocks(self) -> int:
        return self.samples * self.groups * self.down * self.across


def tiles_launches(problem: TilesProblem) -> list[launches.Launch]:
    rows, blocks = problem.rows, problem.blocks
    type_name, size = launches.TYPES[problem.dtype]
    vector = _VECTOR_BYTES // size
    steps = math.ceil(problem.taps * problem.in_channels / vector / _STEP_VECTORS)
    loops = {
        "convolve_tiles.step": steps,
        "pass_taps.while": problem.taps,
        "convolve_tiles.i": rows * _COLUMNS / vector / _THREADS,
    }
    # Copies and matrices of a step; a tile's results there and back.
    of_step = (rows + _COLUMNS) * _STEP_VECTORS // 8 + 2 * (rows // 32 + 2) * 4 * _THREADS // _LANES
    # Other tiles of pixels read the kernels again, other tiles of channels the input.
    again = (problem.down - 1) * problem.arrays["kernels"] + (problem.across - 1) * problem.arrays["input"]
    kernel = f"convolve_tiles<{type_name}, {rows}>"
    wavefronts = blocks * (steps * of_step + rows * size)
    return [launches.Launch(kernel, blocks, _THREADS, loops, problem.arrays, again, wavefronts=wavefronts)]


@model("crossd_prediction.convolve_tiles")
def convolve_tiles(call: Call) -> list[AnyLaunch]:
    input, kernels, bias, out = call["input"], call["kernels"], call["bias"], call.results[0]
    samples, out_channels, in_channels, *taps = kernels.sizes
    arrays = {"input": input.bytes, "kernels": kernels.bytes, "out": out.bytes}
    arrays |= {"bias": bias.bytes} if bias else {}
    groups = call["groups"]
    problem = TilesProblem(
        samples, groups, in_channels, out_channels // groups, math.prod(out.sizes[2:]), math.prod(taps), input.dtype,
        arrays,
    )  # fmt: skip
    return [*tiles_launches(problem)]
