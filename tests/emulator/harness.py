"""The CUDA kernels as a backend for CPU tensors: the launchers, compiled with the emulator, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from .build import CSRC, EMULATOR, compile_program

DTYPES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


# Mirrors of csrc/shift/problem.h.
class ShiftShape(ctypes.Structure):
    _fields_ = [
        ("samples", ctypes.c_int64),
        ("out_channels", ctypes.c_int64),
        ("in_channels", ctypes.c_int64),
        ("kernel", ctypes.c_int32 * 3),
        ("axis", ctypes.c_int32 * 3),
        ("first_slice", ctypes.c_int32),
        ("slices", ctypes.c_int32),
    ]


class WeightStrides(ctypes.Structure):
    _fields_ = [("out_channel", ctypes.c_int64), ("in_channel", ctypes.c_int64), ("kernel", ctypes.c_int64 * 3)]


class GradStrides(ctypes.Structure):
    _fields_ = [("sample", ctypes.c_int64), *WeightStrides._fields_]


class ForwardProblem(ctypes.Structure):
    _fields_ = [
        ("shape", ShiftShape),
        ("weight", ctypes.c_void_p),
        ("weight_strides", WeightStrides),
        ("weight_dtype", ctypes.c_int32),
        ("out_dtype", ctypes.c_int32),
        ("shift", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("tap_major", ctypes.c_bool),
    ]


class BackwardProblem(ctypes.Structure):
    _fields_ = [
        ("shape", ShiftShape),
        ("grad", ctypes.c_void_p),
        ("grad_strides", GradStrides),
        ("grad_dtype", ctypes.c_int32),
        ("weight_dtype", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("weight_strides", WeightStrides),
        ("shift", ctypes.c_void_p),
        ("grad_weight", ctypes.c_void_p),
        ("grad_weight_strides", WeightStrides),
        ("grad_shift", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
    ]


class EmulatedBackend:
    """The operators of crossd_ops for CPU tensors, through the CUDA kernels. Slow: for small shapes.

    Same contract as ``torch.ops.crossd_ops.fourier_shift`` and ``fourier_shift_backward``. A launch that would fail
    on a device raises RuntimeError. ``csrc``: the folder of the sources, for a test that alters them.
    """

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def set_order(self, order: str, seed: int = 0) -> None:
        """The order in which the threads of a block run: "forward", "reverse" or "random"."""
        self._library.emulated_set_order(ORDERS[order], seed)

    def statistics(self) -> dict[str, int]:
        """Launches so far, and the largest dynamic shared memory of one, in bytes."""
        launches, shared = ctypes.c_uint64(), ctypes.c_size_t()
        self._library.emulated_statistics(ctypes.byref(launches), ctypes.byref(shared))
        return {"launches": launches.value, "largest_dynamic_shared": shared.value}

    def fourier_shift(
        self,
        weight: torch.Tensor,
        shift: torch.Tensor,
        dim: int,
        index: int | None,
        dtype: torch.dtype,
        tap_major: bool = False,
    ) -> torch.Tensor:
        """``tap_major``: in memory the output's elements of a kernel come before its channels."""
        weight, shift = weight.detach(), shift.detach().contiguous()
        shape = _shape(weight, shift, dim, index)
        size = _output_size(shape, index)
        memory = size[:1] + size[3:] + size[1:3] if tap_major else size
        out = torch.full(memory, float("nan"), dtype=dtype)
        problem = ForwardProblem(
            shape, weight.data_ptr(), _weight_strides(weight, shape), DTYPES[weight.dtype], DTYPES[dtype],
            shift.data_ptr(), out.data_ptr(), tap_major,
        )  # fmt: skip
        self._run("forward", problem, weight=weight, shift=shift, out=out)
        return out.movedim((-2, -1), (1, 2)) if tap_major else out

    def fourier_shift_backward(
        self,
        grad: torch.Tensor,
        weight: torch.Tensor,
        shift: torch.Tensor,
        dim: int,
        index: int | None,
        need_weight: bool,
        need_shift: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        grad, weight, shift = grad.detach(), weight.detach(), shift.detach().contiguous()
        shape = _shape(weight, shift, dim, index)
        if tuple(grad.shape) != _output_size(shape, index):
            raise ValueError(f"grad: expected {_output_size(shape, index)}, got {tuple(grad.shape)}")
        nan = float("nan")
        grad_weight = torch.full(weight.shape if need_weight else (0,), nan, dtype=weight.dtype)
        grad_shift = torch.full(shift.shape if need_shift else (0,), nan, dtype=shift.dtype)
        elements = self._library.emulated_partial_elements(ctypes.byref(shape)) if need_shift else 0
        partial = torch.full((elements,), nan, dtype=shift.dtype)
        problem = BackwardProblem(
            shape, grad.data_ptr(), _grad_strides(grad, index), DTYPES[grad.dtype],
            DTYPES[weight.dtype], weight.data_ptr(), _weight_strides(weight, shape), shift.data_ptr(),
            grad_weight.data_ptr() if need_weight else None,
            _weight_strides(grad_weight, shape) if need_weight else WeightStrides(),
            grad_shift.data_ptr() if need_shift else None, partial.data_ptr() if need_shift else None,
        )  # fmt: skip
        if need_weight or need_shift:
            self._run(
                "backward", problem, grad=grad, weight=weight, shift=shift, grad_weight=grad_weight,
                grad_shift=grad_shift, partial=partial,
            )  # fmt: skip
        return grad_weight, grad_shift

    def _run(self, direction: str, problem: ForwardProblem | BackwardProblem, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the problem points to, for the meter."""
        error: bytes | None = getattr(self._library, f"emulated_{direction}")(ctypes.byref(problem))
        if error is not None:
            raise RuntimeError(error.decode())

    def special_size(self, problem: ForwardProblem | BackwardProblem) -> int:
        """The size whose own kernels serve the problem, 0 for the general ones."""
        other = problem.out_dtype if isinstance(problem, ForwardProblem) else problem.grad_dtype
        size: int = self._library.emulated_special_size(ctypes.byref(problem.shape), problem.weight_dtype, other)
        return size

    def vectors(self, problem: ForwardProblem | BackwardProblem) -> set[str]:
        """The tensors that the launcher finds dense and aligned: full tiles of them move in vectors of 16 bytes."""
        direction = "forward" if isinstance(problem, ForwardProblem) else "backward"
        bits = getattr(self._library, f"emulated_{direction}_access")(ctypes.byref(problem))
        return {name for bit, name in enumerate(("weight", "grad_weight", "grad", "out")) if bits >> bit & 1}


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("emulated_forward", "emulated_backward"):
        getattr(library, name).restype = ctypes.c_char_p
    library.emulated_partial_elements.restype = ctypes.c_size_t
    library.emulated_set_order.argtypes = [ctypes.c_int, ctypes.c_uint64]
    layout = [ctypes.c_size_t() for _ in range(4)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected = [size.value for size in layout]
    got = [ctypes.sizeof(ForwardProblem), ForwardProblem.tap_major.offset]
    got += [ctypes.sizeof(BackwardProblem), BackwardProblem.partial.offset]
    if got != expected:
        raise RuntimeError(f"the structs of harness.py and shift/problem.h differ: expected {expected}, got {got}")
    return library


def _shape(weight: torch.Tensor, shift: torch.Tensor, dim: int, index: int | None) -> ShiftShape:
    axis = [dim, *(other for other in range(3) if other != dim)]
    kernel = [weight.shape[2 + a] for a in axis]
    first, slices = (0, kernel[0]) if index is None else (index, 1)
    return ShiftShape(
        shift.shape[0], *weight.shape[:2], (ctypes.c_int32 * 3)(*kernel), (ctypes.c_int32 * 3)(*axis), first, slices
    )


def _output_size(shape: ShiftShape, index: int | None) -> tuple[int, ...]:
    slices = () if index is not None else (shape.kernel[0],)
    return (shape.samples, shape.out_channels, shape.in_channels, *slices, shape.kernel[1], shape.kernel[2])


def _weight_strides(tensor: torch.Tensor, shape: ShiftShape) -> WeightStrides:
    strides = tensor.stride()
    return WeightStrides(strides[0], strides[1], (ctypes.c_int64 * 3)(*(strides[2 + a] for a in shape.axis)))


def _grad_strides(grad: torch.Tensor, index: int | None) -> GradStrides:
    strides = list(grad.stride())
    kernel = strides[3:] if index is None else [0, *strides[3:]]
    return GradStrides(*strides[:3], (ctypes.c_int64 * 3)(*kernel))
