"""The convolution of each sample in tiles, for CPU tensors: the CUDA launcher, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from .build import CSRC, EMULATOR, compile_program
from .harness import DTYPES

_Axes = ctypes.c_int64 * 2
_Numbers = int | tuple[int, int]


def _both(numbers: _Numbers) -> ctypes.Array[ctypes.c_int64]:
    return _Axes(numbers, numbers) if isinstance(numbers, int) else _Axes(*numbers)


class TilesProblem(ctypes.Structure):  # mirror of csrc/convolution/tiles_problem.h
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "groups", "in_channels", "out_channels")),
        *((name, _Axes) for name in ("image", "kernel", "result", "stride", "padding", "dilation")),
        ("input_sample", ctypes.c_int64),
        ("input_pixel", _Axes),
        *((name, ctypes.c_void_p) for name in ("input", "kernels", "bias")),
        ("bias_stride", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        ("bias_dtype", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class TilesInputProblem(ctypes.Structure):  # mirror of csrc/convolution/tiles_problem.h
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "groups", "in_channels", "out_channels")),
        *((name, _Axes) for name in ("image", "kernel", "result", "stride", "padding", "dilation")),
        ("grad_sample", ctypes.c_int64),
        ("grad_pixel", _Axes),
        *((name, ctypes.c_void_p) for name in ("grad", "kernels", "grad_input")),
        ("dtype", ctypes.c_int32),
    ]


class EmulatedTiles:
    """Of channels-last images, with numbers for both axes, or for each; slow: for small ones."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "tiles_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def convolve(
        self,
        input: torch.Tensor,
        kernels: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: _Numbers = 1,
        padding: _Numbers = 0,
        dilation: _Numbers = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        """kernels: (B, O, C / groups, Kh, Kw), in memory (B, Kh, Kw, O, C / groups)."""
        samples, out_channels, in_channels, *kernel = kernels.shape
        sizes = [
            (size + 2 * pad - rate * (side - 1) - 1) // step + 1
            for size, side, step, pad, rate in zip(
                input.shape[2:], kernel, *map(_both, (stride, padding, dilation)), strict=True
            )
        ]
        out = torch.full((samples, *sizes, out_channels), float("nan"), dtype=input.dtype).permute(0, 3, 1, 2)
        both = map(_both, (stride, padding, dilation))
        problem = TilesProblem(
            samples, groups, in_channels, out_channels // groups, _Axes(*input.shape[2:]), _Axes(*kernel),
            _Axes(*sizes), *both, input.stride(0), _Axes(*input.stride()[2:]), input.data_ptr(), kernels.data_ptr(),
            None if bias is None else bias.data_ptr(), 0 if bias is None else bias.stride(0), out.data_ptr(),
            DTYPES[input.dtype if bias is None else bias.dtype], DTYPES[input.dtype],
        )  # fmt: skip
        biases = {} if bias is None else {"bias": bias}
        self._run("convolve_tiles", problem, input=input, kernels=kernels, **biases, out=out)
        return out

    def input_gradient(
        self,
        grad: torch.Tensor,
        kernels: torch.Tensor,
        image: tuple[int, int],
        stride: _Numbers = 1,
        padding: _Numbers = 0,
        dilation: _Numbers = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        """``image``: pixels; the rest as for ``convolve``."""
        samples, out_channels, in_channels, *kernel = kernels.shape
        out = torch.full((samples, *image, groups * in_channels), float("nan"), dtype=grad.dtype).permute(0, 3, 1, 2)
        both = map(_both, (stride, padding, dilation))
        problem = TilesInputProblem(
            samples, groups, in_channels, out_channels // groups, _Axes(*image), _Axes(*kernel), _Axes(*grad.shape[2:]),
            *both, grad.stride(0), _Axes(*grad.stride()[2:]), grad.data_ptr(), kernels.data_ptr(), out.data_ptr(),
            DTYPES[grad.dtype],
        )  # fmt: skip
        self._run("tiles_input_gradient", problem, grad=grad, kernels=kernels, grad_input=out)
        return out

    def rows_of_tile(self, samples: int, pixels: int, out_channels: int) -> int:
        """What the plan has; of images of one group."""
        rows: int = self._library.rows_of_tile(*map(ctypes.c_int64, (samples, pixels, out_channels)))
        return rows

    def _run(self, launcher: str, problem: TilesProblem | TilesInputProblem, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the problem points to, for the meter."""
        error: bytes | None = getattr(self._library, f"emulated_{launcher}")(ctypes.byref(problem))
        if error is not None:
            raise RuntimeError(error.decode())


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for launcher in ("convolve_tiles", "tiles_input_gradient"):
        getattr(library, f"emulated_{launcher}").restype = ctypes.c_char_p
    library.rows_of_tile.restype = ctypes.c_int64
    for name, struct in (("layout", TilesProblem), ("input_layout", TilesInputProblem)):
        layout = [ctypes.c_size_t() for _ in range(2)]
        getattr(library, f"emulated_{name}")(*map(ctypes.byref, layout))
        expected, got = [size.value for size in layout], [ctypes.sizeof(struct), struct.dtype.offset]
        if got != expected:
            raise RuntimeError(f"{struct.__name__} differs in the harness and csrc: expected {expected}, got {got}")
    return library
