"""Models of shifted columns and their gradients, as csrc/convolution/shifted_columns/cuda/launch.cuh launches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.models import AnyLaunch, LibraryLaunch, model
from benchmarks.gpu.prediction.trace import Array, Call

_TASKS, _THREADS, _VECTOR_BYTES = 1024, 256, 16
_WARPS = _THREADS // 32
_AXES = tuple[int, int, int]


@dataclass(frozen=True)
class ShiftedProblem:
    """Of whole samples; images have a depth of 1. Tensors begin, and their strides are, at whole vectors."""

    samples: int
    channels: int
    groups: int
    image: _AXES
    weight: _AXES  # as it lies in memory
    kernel: _AXES
    result: _AXES
    stride: _AXES
    padding: _AXES
    dilation: _AXES
    dtype: str

    @property
    def item_bytes(self) -> int:
        return launches.TYPES[self.dtype][1]

    @property
    def types(self) -> str:
        return f"{launches.TYPES[self.dtype][0]}, {self.accumulate}"

    @property
    def accumulate(self) -> str:
        return "double" if self.dtype == "float64" else "float"

    @property
    def channels_of_thread(self) -> int:
        """Four at most, of slices."""
        of_group, most = self.channels // self.groups, 4 if self.kernel[0] == 1 else 2
        return math.gcd(of_group, most) if self.item_bytes == 2 else 1

    @property
    def cubic_kernel(self) -> str | None:
        """Template arguments of the kernels for 3 x 3 x 3; None for other sizes, which no table counts."""
        if self.weight != (3, 3, 3):
            return None
        return f"<{self.types}, {self.channels_of_thread}, 3, {self.kernel[0]}>"

    @property
    def lanes(self) -> int:
        """Threads of a pixel."""
        return self.channels // self.channels_of_thread

    @property
    def of_part(self) -> int:
        """Pixels of a block, as many as if no thread had more than two channels."""
        return max(_TASKS // max(self.channels // math.gcd(self.channels_of_thread, 2), 1), 1)

    @property
    def pixels(self) -> int:
        return math.prod(self.result)

    @property
    def parts(self) -> int:
        """Blocks of a sample."""
        return max(math.ceil(self.pixels / self.of_part), 1)

    @property
    def tasks(self) -> float:
        """Rounds of a warp, in the mean."""
        whole, rest = divmod(self.pixels, self.of_part)
        rounds = [self.of_part * self.lanes] * whole + [rest * self.lanes]
        return sum(math.ceil(count / 32) for count in rounds) / _WARPS / self.parts

    @property
    def image_bytes(self) -> int:
        return self.samples * self.channels * math.prod(self.image) * self.item_bytes

    @property
    def row_bytes(self) -> int:
        """Of all rows, one element of each."""
        return self.samples * self.pixels * self.channels * self.item_bytes

    @property
    def columns_bytes(self) -> int:
        return self.row_bytes * math.prod(self.weight)

    @property
    def seen_bytes(self) -> int:
        return self.row_bytes * math.prod(self.kernel)

    @property
    def shift_bytes(self) -> int:
        return self.samples * 3 * (8 if self.dtype == "float64" else 4)

    def seen_of(self, axis: int) -> list[int]:
        """Places of the image along an axis that are seen, again and again."""
        seen = [
            pixel * self.stride[axis] - self.padding[axis] + tap * self.dilation[axis]
            for pixel in range(self.result[axis])
            for tap in range(self.kernel[axis])
        ]
        return [place for place in seen if 0 <= place < self.image[axis]]

    @property
    def seen_inside(self) -> int:
        """Bytes of what is seen inside of the image."""
        inside = math.prod(len(self.seen_of(axis)) for axis in range(3))
        return self.samples * inside * self.channels * self.item_bytes

    @property
    def image_seen(self) -> int:
        """Bytes of the image that are seen."""
        return (
            self.samples * math.prod(len({*self.seen_of(axis)}) for axis in range(3)) * self.channels * self.item_bytes
        )

    @property
    def image_again(self) -> int:
        """Bytes of the image that blocks read beside those of others: rows of pixels above and below their own."""
        rows = max(self.of_part / self.result[2], 1)
        return int(self.image_seen * ((rows + self.kernel[1] - 1) / rows * self.kernel[0] - 1))


def shifted_columns_launches(problem: ShiftedProblem) -> list[AnyLaunch]:
    arrays = {"image": problem.image_seen, "shift": problem.shift_bytes, "columns": problem.columns_bytes}
    return [_launch(problem, "shifted_columns", arrays, problem.image_again)]


def shifted_gradient_launches(problem: ShiftedProblem, need_seen: bool, need_shift: bool) -> list[AnyLaunch]:
    arrays = {"columns": problem.columns_bytes, "shift": problem.shift_bytes}
    if need_seen:
        arrays["seen"] = problem.seen_bytes
    if need_shift:
        arrays |= {"image": problem.image_seen, "partial": problem.parts * problem.shift_bytes}
    return [_launch(problem, "shifted_gradient", arrays, problem.image_again if need_shift else 0)]


def _launch(problem: ShiftedProblem, kernel: str, arrays: dict[str, int], again: int) -> AnyLaunch:
    if problem.cubic_kernel is None:
        return LibraryLaunch(f"{kernel}_any<{problem.types}>", sum(arrays.values()))
    # The first warp of a block computes the taps, of which each has one harmonic, and their derivatives.
    loops = {f"{kernel}_cubic.task": problem.tasks, "tap_at.m": 2 / _WARPS}
    name = f"{kernel}_cubic{problem.cubic_kernel}"
    return launches.Launch(name, problem.samples * problem.parts, _THREADS, loops, arrays, again)


def image_from_seen_launches(problem: ShiftedProblem) -> list[AnyLaunch]:
    vector = _VECTOR_BYTES // problem.item_bytes
    channels = vector if problem.channels % vector == 0 else 1
    blocks = math.ceil(math.prod(problem.image) * problem.channels / channels / _THREADS)
    depth, rows, columns = problem.kernel
    loops = {"d": depth, "h": depth * rows, "w": depth * rows * columns}
    arrays = {"seen": problem.seen_inside, "image": problem.image_bytes}
    return [
        launches.Launch(
            f"image_from_seen<{problem.types}, {channels}>",
            problem.samples * blocks,
            _THREADS,
            {f"image_from_seen.{name}": float(count) for name, count in loops.items()},
            arrays,
        )
    ]


def _problem(call: Call, image: Array, rows: int) -> ShiftedProblem:
    """Of so many rows of columns; some of one sample's as if that were a smaller one."""
    axes = {name: _three(call[name]) for name in ("weight", "kernel", "result", "stride", "padding", "dilation")}
    samples, channels, *pixels = image.sizes
    depth, height, width = axes["result"]
    if rows < samples * depth * height * width:
        lines = math.ceil(rows / width)
        axes["result"] = (1, lines, width) if lines <= height else (math.ceil(lines / height), height, width)
    sizes = (1,) * (3 - len(pixels)) + tuple(pixels)
    return ShiftedProblem(samples, channels, call["groups"], _three(sizes), dtype=image.dtype, **axes)


def _three(sizes: Sequence[int]) -> _AXES:
    first, second, third = sizes
    return first, second, third


def _rows_of(columns: Array, call: Call, image: Array) -> int:
    return columns.elements // image.sizes[1] // math.prod(call["weight"])


@model("crossd_prediction.image_to_shifted_columns")
def image_to_shifted_columns(call: Call) -> list[AnyLaunch]:
    image: Array = call["image"]
    return shifted_columns_launches(_problem(call, image, _rows_of(call["columns"], call, image)))


@model("crossd_prediction.shifted_columns_gradient")
def shifted_columns_gradient(call: Call) -> list[AnyLaunch]:
    image: Array = call["image"]
    problem = _problem(call, image, _rows_of(call["columns"], call, image))
    return shifted_gradient_launches(problem, call["seen"] is not None, call["partial"] is not None)


@model("crossd_prediction.seen_to_image")
def seen_to_image(call: Call) -> list[AnyLaunch]:
    image: Array = call["image"]
    return image_from_seen_launches(_problem(call, image, call["seen"].sizes[0]))
