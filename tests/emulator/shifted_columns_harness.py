"""The CUDA kernels of shifted columns, for CPU tensors: the launchers, called by ctypes."""

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


class ShiftedColumnsProblem(ctypes.Structure):  # mirror of csrc/convolution/shifted_columns/problem.h
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "channels", "groups")),
        *((name, _Axes) for name in ("image", "kernel", "result", "stride", "padding", "dilation", "weight")),
        *((name, ctypes.c_int32) for name in ("sliced", "index")),
        *((name, ctypes.c_int64) for name in ("first_row", "rows", "image_sample")),
        ("image_pixel", _Axes),
        *((name, ctypes.c_int32) for name in ("dtype", "shift_dtype")),
        ("accumulate", ctypes.c_bool),
    ]


class EmulatedShiftedColumns:
    """Of all rows of channels-last images (B, C, H, W), or volumes; numbers are the same for all axes. Slow."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "shifted_columns_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def problem(
        self,
        image: torch.Tensor,
        weight: Sequence[int],
        place: tuple[int, int] | None = None,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> ShiftedColumnsProblem:
        """``place``: axis and index of the weight's slice, of images."""
        axes = image.dim() - 2
        kernel = [size for axis, size in enumerate(weight) if place is None or axis != place[0]]
        result = [(size + 2 * padding - side) // stride + 1 for size, side in zip(image.shape[2:], kernel, strict=True)]

        def of_volume(numbers: Sequence[int], first: int) -> ctypes.Array[ctypes.c_int64]:
            return _Axes(*[first] * (3 - axes), *numbers)

        problem = ShiftedColumnsProblem(image.shape[0], image.shape[1], groups)
        problem.image, problem.kernel = of_volume(image.shape[2:], 1), of_volume(kernel, 1)
        problem.result, problem.stride = of_volume(result, 1), of_volume([stride] * axes, 1)
        problem.padding, problem.dilation = of_volume([padding] * axes, 0), of_volume([1] * axes, 1)
        problem.weight = _Axes(*weight)
        problem.sliced, problem.index = place if place is not None else (-1, -1)
        problem.rows = image.shape[0] * math.prod(result)
        problem.image_sample, problem.image_pixel = image.stride(0), of_volume(image.stride()[2:], 0)
        problem.dtype = DTYPES[image.dtype]
        problem.shift_dtype = DTYPES[torch.promote_types(image.dtype, torch.float32)]
        return problem

    def image_to_columns(
        self, problem: ShiftedColumnsProblem, image: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        """(rows, groups, elements of the weight, channels of a group)."""
        of_group = problem.channels // problem.groups
        columns = image.new_full((problem.rows, problem.groups, math.prod(problem.weight), of_group), math.nan)
        self._run("image_to_shifted_columns", problem, image=image, shift=shift, columns=columns)
        return columns

    def gradient(
        self, problem: ShiftedColumnsProblem, columns: torch.Tensor, image: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of what is seen, and of the shift."""
        seen = image.new_full((problem.rows, math.prod(problem.kernel), problem.channels), math.nan)
        partials = self._library.partials_of(ctypes.byref(problem))
        partial = shift.new_full((partials, *shift.shape), math.nan)
        self._run(
            "shifted_columns_gradient", problem, columns=columns, image=image, shift=shift, seen=seen, partial=partial
        )
        return seen, partial.sum(0)

    def seen_to_image(self, problem: ShiftedColumnsProblem, seen: torch.Tensor, image: torch.Tensor) -> None:
        """Into ``image``."""
        self._run("seen_to_image", problem, seen=seen, image=image)

    def _run(self, operator: str, problem: ShiftedColumnsProblem, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the kernels get, in order."""
        function = getattr(self._library, f"emulated_{operator}")
        addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors.values())
        error: bytes | None = function(ctypes.byref(problem), *addresses)
        if error is not None:
            raise RuntimeError(error.decode())


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("image_to_shifted_columns", "shifted_columns_gradient", "seen_to_image"):
        getattr(library, f"emulated_{name}").restype = ctypes.c_char_p
    library.partials_of.restype = ctypes.c_int64
    layout = [ctypes.c_size_t() for _ in range(2)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected = [size.value for size in layout]
    got = [ctypes.sizeof(ShiftedColumnsProblem), ShiftedColumnsProblem.accumulate.offset]
    if got != expected:
        raise RuntimeError(f"the structs of the harness and the header differ: expected {expected}, got {got}")
    return library
