"""Models of the convolution in tiles and of its gradients, as csrc/convolution/cuda/tiles*_launch.cuh launch them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.models import AnyLaunch, model
from benchmarks.gpu.prediction.trace import Call

_MANY_ROWS, _FEW_ROWS, _COLUMNS = 128, 64, 64  # csrc/convolution/tiles_problem.h
_MULTIPROCESSORS, _LARGE_STEP, _SMALL_STEP = 132, 5, 3
_STEP_VECTORS, _THREADS, _WARP_ROWS, _VECTOR_BYTES, _LANES = 4, 64, 64, 16, 32
# csrc/convolution/tiles_kernels_problem.h
_GRADIENT_THREADS = 128
_GRADIENT_ROWS, _CHUNK_COLUMNS, _WIDE_CHUNKS, _STEP_PIXELS = 64, 64, 3, 32
_WANTED_GRADIENT_BLOCKS, _LEAST_STEPS, _STEPS_TO_HALVE = 96, 8, 16


def _rows_of_tile(parts: int, pixels: int, channels: int) -> int:
    of_pixels = parts * math.ceil(channels / _COLUMNS)
    large, small = (
        math.ceil(of_pixels * math.ceil(pixels / rows) / _MULTIPROCESSORS) for rows in (_MANY_ROWS, _FEW_ROWS)
    )
    return _MANY_ROWS if large * _LARGE_STEP <= small * _SMALL_STEP else _FEW_ROWS


def _wavefronts(rows: int, steps: int, tiles: int, size: int) -> int:
    """Of all tiles and their steps: copies and matrices of a step; a tile's results there and back."""
    warps = _THREADS // _LANES
    warp_columns = _COLUMNS * rows // _WARP_ROWS // warps
    of_step = (rows + _COLUMNS) * _STEP_VECTORS // 8 + 2 * (_WARP_ROWS + warp_columns) // 16 * 4 * warps
    return steps * of_step + tiles * rows * size


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
        return _rows_of_tile(self.samples * self.groups, self.pixels, self.out_channels)

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
        "add_steps.step": steps,
        "pass_taps.while": problem.taps,
        "write_tile.i": rows * _COLUMNS / vector / _THREADS,
    }
    # Other tiles of pixels read the kernels again, other tiles of channels the input.
    again = (problem.down - 1) * problem.arrays["kernels"] + (problem.across - 1) * problem.arrays["input"]
    kernel = f"convolve_tiles<{type_name}, {rows}>"
    wavefronts = _wavefronts(rows, blocks * steps, blocks, size)
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


@dataclass(frozen=True)
class TilesInputProblem:
    """The gradient of its input: channels of a group, and bytes of "grad", "kernels" and "grad_input"."""

    samples: int
    groups: int
    in_channels: int
    out_channels: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    dtype: str
    arrays: dict[str, int]

    def remainders(self, axis: int) -> list[tuple[int, int]]:
        """Of each remainder modulo the stride: pixels, and taps that see them."""
        image, stride, padding = self.image[axis], self.stride[axis], self.padding[axis]
        taps = [tap * self.dilation[axis] for tap in range(self.kernel[axis])]
        return [
            (len(range(first, image, stride)), sum((first + padding - far) % stride == 0 for far in taps))
            for first in range(min(stride, image))
        ]


def tiles_input_launches(problem: TilesInputProblem) -> list[launches.Launch]:
    type_name, size = launches.TYPES[problem.dtype]
    vector, samples = _VECTOR_BYTES // size, problem.samples * problem.groups
    parts = [
        (rows * columns, down * right)
        for rows, down in problem.remainders(0)
        for columns, right in problem.remainders(1)
    ]
    most, across = max(pixels for pixels, _ in parts), math.ceil(problem.in_channels / _COLUMNS)
    rows = _rows_of_tile(samples * len(parts), most, problem.in_channels)
    blocks = samples * len(parts) * math.ceil(most / rows) * across
    tiles = steps = walked = 0  # of a tile of channels of a sample
    for pixels, taps in parts:
        count = math.ceil(pixels / rows)
        tiles, walked = tiles + count, walked + count * taps
        steps += count * math.ceil(taps * problem.out_channels / vector / _STEP_VECTORS)
    share = samples * across / blocks
    loops = {
        "add_steps.step": share * steps,
        "pass_taps.while": share * walked,
        "remainder_axis.tap": sum(problem.kernel) / 2,
        "write_tile.i": share * tiles * rows * _COLUMNS / vector / _THREADS,
    }
    # Other tiles of a remainder's pixels read its taps' kernels again, other remainders and tiles of channels the grad.
    readers = sum(taps > 0 for _, taps in parts) * across
    of_kernels = problem.arrays["kernels"] / math.prod(problem.kernel) * sum(taps for _, taps in parts)
    again = problem.arrays["kernels"] / math.prod(problem.kernel) * walked - of_kernels
    again += (readers - 1) * problem.arrays["grad"]
    kernel = f"grad_input_tiles<{type_name}, {rows}>"
    wavefronts = _wavefronts(rows, samples * across * steps, samples * across * tiles, size)
    return [launches.Launch(kernel, blocks, _THREADS, loops, problem.arrays, int(again), wavefronts=wavefronts)]


@model("crossd_prediction.tiles_input_gradient")
def tiles_input_gradient(call: Call) -> list[AnyLaunch]:
    grad, kernels, result = call["grad"], call["kernels"], call.results[0]
    samples, out_channels, in_channels, *kernel = kernels.sizes
    stride, padding, dilation, groups = (call[name] for name in ("stride", "padding", "dilation", "groups"))
    arrays = {"grad": grad.bytes, "kernels": kernels.bytes, "grad_input": result.bytes}
    image = result.sizes[2:]
    problem = TilesInputProblem(
        samples, groups, in_channels, out_channels // groups, (image[0], image[1]), (kernel[0], kernel[1]),
        (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), grad.dtype, arrays,
    )  # fmt: skip
    return [*tiles_input_launches(problem)]


@dataclass(frozen=True)
class TilesKernelsProblem:
    """The gradient of the kernels of a convolution in tiles."""

    samples: int
    groups: int
    in_channels: int
    out_channels: int
    pixels: int
    taps: int
    dtype: str
    arrays: dict[str, int]  # bytes of "input", "grad" and "grad_kernels"

    def across(self, chunks: int) -> int:
        """Tiles along the columns."""
        return math.ceil(self.taps * self.in_channels / (chunks * _CHUNK_COLUMNS))

    @property
    def down(self) -> int:
        """Tiles along the output channels."""
        return math.ceil(self.out_channels / _GRADIENT_ROWS)

    @property
    def plan(self) -> tuple[int, int, int, bool]:
        """Chunks of a tile, tiles, splits, and whether steps are halved."""
        rows, steps = self.samples * self.groups * self.down, math.ceil(self.pixels / _STEP_PIXELS)
        wide, narrow = rows * self.across(_WIDE_CHUNKS), rows * self.across(1)
        if wide * _WIDE_CHUNKS * 10 <= narrow * 11 and wide >= _WANTED_GRADIENT_BLOCKS:
            return _WIDE_CHUNKS, wide, 1, steps >= _STEPS_TO_HALVE
        splits = min(max(steps // _LEAST_STEPS, 1), math.ceil(_WANTED_GRADIENT_BLOCKS / max(narrow, 1)))
        of_split = math.ceil(steps / splits)
        return 1, narrow, math.ceil(steps / of_split), of_split >= _STEPS_TO_HALVE


def tiles_kernels_launches(problem: TilesKernelsProblem) -> list[launches.Launch]:
    chunks, tiles, splits, halved_steps = problem.plan
    type_name, size = launches.TYPES[problem.dtype]
    blocks, across = tiles * splits, problem.across(chunks)
    steps = math.ceil(problem.pixels * size / 2 / _STEP_PIXELS) / splits  # half as many pixels of float32 in a step
    # Copies and matrices of a step; a tile's results there and back, where they do not go to memory as they are.
    warps = _GRADIENT_THREADS // _LANES
    of_warp = 2 + 2 if chunks == 1 else 4 + chunks  # matrices of 16 rows or columns, of each half of a step
    of_halved = 4 + 2 * chunks  # of one half
    of_step = (1 + chunks) * _STEP_PIXELS + (of_halved if halved_steps else 2 * of_warp) * 4 * warps
    of_results = 0 if splits > 1 else size * 64 * chunks
    of_results += 256 * chunks if halved_steps else 0  # sums of one half to another warp
    # Other tiles of columns read the gradient again; the input other tiles of output channels, and those of other taps.
    again = (across - 1) * problem.arrays["grad"]
    again += (problem.down * min(across, problem.taps) - 1) * problem.arrays["input"]
    grad_kernels = problem.arrays["grad_kernels"]
    partial = {"partial": grad_kernels // size * 4 * splits}
    arrays = problem.arrays if splits == 1 else {name: problem.arrays[name] for name in ("input", "grad")} | partial
    main = launches.Launch(
        f"grad_kernels_tiles<{type_name}, {str(halved_steps).lower()}, {chunks}>", blocks, _GRADIENT_THREADS,
        {"add_steps.step": steps}, arrays, again, wavefronts=blocks * (steps * of_step + of_results),
    )  # fmt: skip
    if splits == 1:
        return [main]
    blocks = math.ceil(grad_kernels / size / 4 / _GRADIENT_THREADS)
    arrays = partial | {"grad_kernels": grad_kernels}
    return [
        main,
        launches.Launch(f"add_splits<{type_name}>", blocks, _GRADIENT_THREADS, {"add_splits.split": splits}, arrays),
    ]


@model("crossd_prediction.tiles_kernels_gradient")
def tiles_kernels_gradient(call: Call) -> list[AnyLaunch]:
    grad, input, result = call["grad"], call["input"], call.results[0]
    samples, out_channels, in_channels, *kernel = result.sizes
    arrays = {"input": input.bytes, "grad": grad.bytes, "grad_kernels": result.bytes}
    groups, pixels, taps = call["groups"], math.prod(grad.sizes[2:]), math.prod(kernel)
    problem = TilesKernelsProblem(
        samples, groups, in_channels, out_channels // groups, pixels, taps, grad.dtype, arrays
    )
    return [*tiles_kernels_launches(problem)]
