"""The CUDA kernels that make columns and take them back, for CPU tensors: the launchers, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from .build import CSRC, EMULATOR, compile_program
from .harness import DTYPES

_Axes = ctypes.c_int64 * 3


class ColumnsProblem(ctypes.Structure):  # mirror of csrc/convolution/columns_problem.h
    _fields_ = [
        ("samples", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        *((name, _Axes) for name in ("image", "kernel", "result", "stride", "padding", "dilation")),
        ("image_sample", ctypes.c_int64),
        ("image_channel", ctypes.c_int64),
        ("image_pixel", _Axes),
        ("row", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    ]


class EmulatedColumns:
    """Of images and volumes, with kernels and numbers for each of their axes; slow: for small ones."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "columns_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def image_to_columns(self, image: torch.Tensor, *numbers: Sequence[int]) -> torch.Tensor:
        """(B, C, ...) -> (B, C * kernel elements, pixels); numbers: kernel, stride, padding and dilation."""
        problem = _problem(image, *numbers)
        columns = _columns(problem, image.dtype)
        self._run("image_to_columns", problem, image=image, columns=columns)
        return columns[..., : math.prod(problem.result)]

    def columns_to_image(self, columns: torch.Tensor, image: torch.Tensor, *numbers: Sequence[int]) -> None:
        """The adjoint, into `image`."""
        image.fill_(float("nan"))
        problem = _problem(image, *numbers)
        rows = _columns(problem, image.dtype)
        rows[..., : columns.shape[-1]] = columns
        self._run("columns_to_image", problem, columns=rows, image=image)

    def _run(self, operator: str, problem: ColumnsProblem, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the kernels get, in order."""
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors.values()]
        error: bytes | None = getattr(self._library, f"emulated_{operator}")(ctypes.byref(problem), *pointers)
        if error is not None:
            raise RuntimeError(error.decode())


def _problem(image: torch.Tensor, *numbers: Sequence[int]) -> ColumnsProblem:
    (samples, channels, *sizes), (of_sample, of_channel, *of_pixels) = image.shape, image.stride()
    kernel, stride, padding, dilation = numbers
    axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
    result = [(size + 2 * pad - rate * (side - 1) - 1) // step + 1 for size, side, step, pad, rate in axes]
    more = 3 - len(sizes)
    filled = [[1] * more + list(values) for values in (sizes, kernel, result, stride)]
    filled += [[0] * more + list(padding), [1] * more + list(dilation)]
    sector = 32 // image.element_size()
    row = -(-math.prod(result) // sector) * sector
    return ColumnsProblem(
        samples, channels, *(_Axes(*values) for values in filled), of_sample, of_channel,
        _Axes(*([0] * more + of_pixels)), row, DTYPES[image.dtype],
    )  # fmt: skip


def _columns(problem: ColumnsProblem, dtype: torch.dtype) -> torch.Tensor:
    rows = problem.channels * math.prod(problem.kernel)
    memory = torch.full((problem.samples * rows * problem.row + 32,), float("nan"), dtype=dtype)
    first = -memory.data_ptr() % 32 // memory.element_size()
    return memory[first:][: problem.samples * rows * problem.row].view(problem.samples, rows, problem.row)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("emulated_image_to_columns", "emulated_columns_to_image"):
        getattr(library, name).restype = ctypes.c_char_p
    layout = [ctypes.c_size_t() for _ in range(2)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected, got = [size.value for size in layout], [ctypes.sizeof(ColumnsProblem), ColumnsProblem.dtype.offset]
    if got != expected:
        raise RuntimeError(f"the structs of the harness and columns_problem.h differ: expected {expected}, got {got}")
    return library
