"""The CUDA kernels of the rotation head as a backend for CPU tensors: the launchers, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from .build import CSRC, EMULATOR, compile_program
from .harness import DTYPES


# Mirrors of csrc/head/rotation_problem.h.
class MapShape(ctypes.Structure):
    _fields_ = [("samples", ctypes.c_int64), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64)]


class MapStrides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("sample", "channel", "row", "column")]


class RotationHeadForward(ctypes.Structure):
    _fields_ = [
        ("shape", MapShape),
        ("map", ctypes.c_void_p),
        ("map_strides", MapStrides),
        ("dtype", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("shift", ctypes.c_void_p),
        ("statistics", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
    ]


class RotationHeadBackward(ctypes.Structure):
    _fields_ = [
        ("shape", MapShape),
        ("map", ctypes.c_void_p),
        ("map_strides", MapStrides),
        ("dtype", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("grad_shift", ctypes.c_void_p),
        ("statistics", ctypes.c_void_p),
        ("grad_map", ctypes.c_void_p),
        ("grad_strides", MapStrides),
    ]


class EmulatedRotationHead:
    """Same contract as ``torch.ops.crossd_ops.rotation_head`` and ``rotation_head_backward``; slow: for small maps."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "rotation_head_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def rotation_head(self, map: torch.Tensor, exact: bool) -> tuple[torch.Tensor, torch.Tensor]:
        map = map.detach()
        accumulate = torch.float64 if map.dtype is torch.float64 else torch.float32
        nan = float("nan")
        shift = torch.full((map.shape[0], 3), nan, dtype=accumulate)
        statistics = torch.full((map.shape[0], 4, 3), nan, dtype=accumulate)
        shape = _shape(map)
        elements = self._library.emulated_partial_elements(ctypes.byref(shape))
        partial = torch.full((elements,), nan, dtype=accumulate)
        problem = RotationHeadForward(
            shape, map.data_ptr(), MapStrides(*map.stride()), DTYPES[map.dtype], exact,
            shift.data_ptr(), statistics.data_ptr(), partial.data_ptr(),
        )  # fmt: skip
        self._run("rotation_head", problem, map=map, shift=shift, statistics=statistics, partial=partial)
        return shift, statistics

    def rotation_head_backward(
        self, grad_shift: torch.Tensor, map: torch.Tensor, statistics: torch.Tensor, exact: bool
    ) -> torch.Tensor:
        map, grad_shift = map.detach(), grad_shift.detach().contiguous()
        grad_map = torch.empty_like(map).fill_(float("nan"))
        problem = RotationHeadBackward(
            _shape(map), map.data_ptr(), MapStrides(*map.stride()), DTYPES[map.dtype], exact,
            grad_shift.data_ptr(), statistics.data_ptr(), grad_map.data_ptr(), MapStrides(*grad_map.stride()),
        )  # fmt: skip
        self._run(
            "rotation_head_backward", problem,
            map=map, grad_shift=grad_shift, statistics=statistics, grad_map=grad_map,
        )  # fmt: skip
        return grad_map

    def _run(self, operator: str, problem: RotationHeadForward | RotationHeadBackward, **tensors: torch.Tensor) -> None:
        """``tensors``: those that the problem points to, for the meter."""
        error: bytes | None = getattr(self._library, f"emulated_{operator}")(ctypes.byref(problem))
        if error is not None:
            raise RuntimeError(error.decode())


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("emulated_rotation_head", "emulated_rotation_head_backward"):
        getattr(library, name).restype = ctypes.c_char_p
    library.emulated_partial_elements.restype = ctypes.c_size_t
    layout = [ctypes.c_size_t() for _ in range(4)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected = [size.value for size in layout]
    got = [ctypes.sizeof(RotationHeadForward), RotationHeadForward.partial.offset]
    got += [ctypes.sizeof(RotationHeadBackward), RotationHeadBackward.grad_strides.offset]
    if got != expected:
        raise RuntimeError(
            f"the structs of the harness and head/rotation_problem.h differ: expected {expected}, got {got}"
        )
    return library


def _shape(map: torch.Tensor) -> MapShape:
    return MapShape(map.shape[0], map.shape[2], map.shape[3])
