"""The gradient of the kernels of the convolution in tiles, for CPU tensors: the CUDA launcher, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from .build import CSRC, EMULATOR, compile_program
from .harness import DTYPES

_Axes = ctypes.c_int64 * 2


class TilesKernelsProblem(ctypes.Structure):  # mirror of csrc/convolution/tiles_kernels_problem.h
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "groups", "in_channels", "out_channels")),
        *((name, _Axes) for name in ("image", "kernel", "result", "stride", "padding", "dilation")),
        ("input_sample", ctypes.c_int64),
        ("input_pixel", _Axes),
        ("grad_sample", ctypes.c_int64),
        ("grad_pixel", _Axes),
        *((name, ctypes.c_void_p) for name in ("input", "grad", "partial", "grad_kernels")),
        ("dtype", ctypes.c_int32),
    ]


class EmulatedTilesKernels:
    """Of channels-last images, with numbers that are the same for both axes; slow: for small ones."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "tiles_kernels_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def gradient(
        self,
        grad: torch.Tensor,
        input: torch.Tensor,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        """(B, O, C / groups, Kh, Kw), in memory (B, Kh, Kw, O, C / groups)."""
        samples, out_channels, in_channels = input.shape[0], grad.shape[1], input.shape[1] // groups
        grad_kernels = torch.full((samples, *kernel, out_channels, in_channels), float("nan"), dtype=input.dtype)
        both = (_Axes(number, number) for number in (stride, padding, dilation))
        problem = TilesKernelsProblem(
            samples, groups, in_channels, out_channels // groups, _Axes(*input.shape[2:]), _Axes(*kernel),
            _Axes(*grad.shape[2:]), *both, input.stride(0), _Axes(*input.stride()[2:]), grad.stride(0),
            _Axes(*grad.stride()[2:]), input.data_ptr(), grad.data_ptr(), None, grad_kernels.data_ptr(),
            DTYPES[input.dtype],
        )  # fmt: skip
        tensors = {"grad": grad, "input": input, "grad_kernels": grad_kernels}
        splits = self.plan(problem)[2]
        if splits > 1:
            tensors["partial"] = torch.full((splits, grad_kernels.numel()), float("nan"))
            problem.partial = tensors["partial"].data_ptr()
        self._run(problem, **tensors)
        return grad_kernels.permute(0, 3, 4, 1, 2)

    def plan(self, problem: TilesKernelsProblem) -> tuple[int, int, int, int, int]:
        """Chunks of a tile, tiles, splits, pixels of a split, and whether steps are halved."""
        numbers = (ctypes.c_int64 * 5)()
        self._library.plan_of_kernels_gradient(ctypes.byref(problem), numbers)
        chunks, tiles, splits, of_split, halved_steps = numbers
        return chunks, tiles, splits, of_split, halved_steps

    def _run(self, problem: TilesKernelsProblem, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the problem points to, for the meter."""
        error: bytes | None = self._library.emulated_tiles_kernels_gradient(ctypes.byref(problem))
        if error is not None:
            raise RuntimeError(error.decode())


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.emulated_tiles_kernels_gradient.restype = ctypes.c_char_p
    layout = [ctypes.c_size_t() for _ in range(2)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected = [size.value for size in layout]
    got = [ctypes.sizeof(TilesKernelsProblem), TilesKernelsProblem.dtype.offset]
    if got != expected:
        raise RuntimeError(f"the structs of the harness and the header differ: expected {expected}, got {got}")
    return library
