"""The CUDA kernels of the whole head as a backend for CPU tensors: the launchers, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .build import CSRC, EMULATOR, compile_program
from .harness import DTYPES
from .rotation_head_harness import MapShape, MapStrides


# Mirrors of csrc/head/problem.h.
class Values(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32)]


class HeadInput(ctypes.Structure):
    _fields_ = [
        ("shape", MapShape),
        ("channels", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("strides", MapStrides),
        ("dtype", ctypes.c_int32),
    ]


PARAMETERS = ("weight1", "bias1", "gain", "offset", "weight2", "bias2")


class HeadParameters(ctypes.Structure):
    _fields_ = [*((name, Values) for name in PARAMETERS), ("epsilon", ctypes.c_double)]


class RunningStatistics(ctypes.Structure):
    _fields_ = [
        ("mean", Values),
        ("variance", Values),
        ("batches", ctypes.c_void_p),
        ("momentum", ctypes.c_double),
        ("of_all", ctypes.c_int32),
    ]


class HeadForward(ctypes.Structure):
    _fields_ = [
        ("input", HeadInput),
        ("parameters", HeadParameters),
        ("training", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("given_mean", Values),
        ("given_variance", Values),
        ("mean", ctypes.c_void_p),
        ("variance", ctypes.c_void_p),
        ("running", RunningStatistics),
        ("shift", ctypes.c_void_p),
        ("statistics", ctypes.c_void_p),
    ]


class HeadBackward(ctypes.Structure):
    _fields_ = [
        ("input", HeadInput),
        ("parameters", HeadParameters),
        ("training", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("mean", "variance", "statistics", "grad_shift", "grad_input")),
        ("grad_beside", ctypes.c_void_p),
        ("grad_strides", MapStrides),
        ("need_parameters", ctypes.c_int32),
        *((f"grad_{name}", Values) for name in PARAMETERS),
    ]


class EmulatedHead:
    """Same contract as ``torch.ops.crossd_ops.predict_shift`` and ``predict_shift_backward``, of contiguous parameters
    in the operator's order, all that is asked for, or without ``need_input`` no gradient of the input; slow: for
    small images."""

    def __init__(self, csrc: Path = CSRC, variant: str = "plain") -> None:
        self.path = compile_program(EMULATOR / "cuda_head_harness.cpp", variant, csrc=csrc, shared=True)
        self._library = _load(self.path)

    def predict_shift(
        self,
        input: Tensor,
        parameters: Sequence[Tensor],
        given: tuple[Tensor, Tensor] | None,
        epsilon: float,
        exact: bool,
        running: tuple[Tensor, Tensor, Tensor] | None = None,
        momentum: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        samples = input.shape[0]
        shift, statistics, mean, variance = (_nan(*size) for size in ((samples, 3), (samples, 4, 3), (16,), (16,)))
        tracked = RunningStatistics()
        if running is not None:
            tracked = RunningStatistics(
                _values(running[0]), _values(running[1]), running[2].data_ptr(), momentum or 0, momentum is None
            )
        used = (Values(), Values()) if given is None else (_values(given[0]), _values(given[1]))
        problem = HeadForward(
            _input(input), _parameters(parameters, epsilon), given is None, exact, *used,
            mean.data_ptr(), variance.data_ptr(), tracked, shift.data_ptr(), statistics.data_ptr(),
        )  # fmt: skip
        workspace = _nan(self._library.emulated_forward_workspace(ctypes.byref(problem)))
        self._run("forward", problem, workspace, input=input, weight1=parameters[0], partial=workspace)
        return shift, statistics, mean, variance

    def predict_shift_backward(
        self,
        grad_shift: Tensor,
        input: Tensor,
        parameters: Sequence[Tensor],
        used: tuple[Tensor, Tensor],
        training: bool,
        epsilon: float,
        statistics: Tensor,
        exact: bool,
        beside: Tensor | None = None,
        need_input: bool = True,
    ) -> tuple[Tensor, ...]:
        grad_input = torch.empty_like(input).fill_(float("nan"))
        grads = [torch.full_like(parameter, float("nan")) for parameter in parameters]
        problem = HeadBackward(
            _input(input), _parameters(parameters, epsilon), training, exact,
            *(tensor.data_ptr() for tensor in (*used, statistics, grad_shift)),
            grad_input.data_ptr() if need_input else None, None if beside is None else beside.data_ptr(),
            MapStrides(*grad_input.stride()), True,
            *map(_values, grads),
        )  # fmt: skip
        workspace = _nan(self._library.emulated_backward_workspace(ctypes.byref(problem)))
        tensors = {"input": input, "grad_input": grad_input, "weight1": parameters[0], "partial": workspace}
        tensors |= {"grad_weight1": grads[0]} | ({} if beside is None else {"beside": beside})
        self._run("backward", problem, workspace, **tensors)
        return grad_input, *grads

    def _run(
        self, direction: str, problem: HeadForward | HeadBackward, workspace: Tensor, **tensors: torch.Tensor
    ) -> None:
        """``tensors``: large ones that the problem points to, for the meter."""
        function = getattr(self._library, f"emulated_head_{direction}")
        error: bytes | None = function(ctypes.byref(problem), ctypes.c_void_p(workspace.data_ptr()))
        if error is not None:
            raise RuntimeError(error.decode())


def want_few_blocks(csrc: Path) -> None:
    """Of a copy of the sources: blocks that go through several parts of samples, and several tiles of each."""
    source = csrc / "head" / "cuda" / "head_launch.cuh"
    text, usual = source.read_text(), "kHeadBlocks = 256, kHeadWantedItems = 1024;"
    assert text.count(usual) == 1, "the constants that set the number of blocks have other names"
    source.write_text(text.replace(usual, "kHeadBlocks = 2, kHeadWantedItems = 6;"))


def _nan(*size: int) -> Tensor:
    return torch.full(size, float("nan"))


def _values(tensor: Tensor) -> Values:
    return Values(tensor.data_ptr(), DTYPES[tensor.dtype])


def _input(input: Tensor) -> HeadInput:
    samples, channels, rows, columns = input.shape
    return HeadInput(
        MapShape(samples, rows, columns), channels, input.data_ptr(), MapStrides(*input.stride()), DTYPES[input.dtype]
    )


def _parameters(parameters: Sequence[Tensor], epsilon: float) -> HeadParameters:
    return HeadParameters(*map(_values, parameters), epsilon)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("emulated_head_forward", "emulated_head_backward"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in ("emulated_forward_workspace", "emulated_backward_workspace"):
        getattr(library, name).restype = ctypes.c_size_t
    layout = [ctypes.c_size_t() for _ in range(4)]
    library.emulated_layout(*map(ctypes.byref, layout))
    expected = [size.value for size in layout]
    got = [ctypes.sizeof(HeadForward), HeadForward.statistics.offset]
    got += [ctypes.sizeof(HeadBackward), HeadBackward.grad_bias2.offset]
    if got != expected:
        raise RuntimeError(f"the structs of the harness and head/problem.h differ: expected {expected}, got {got}")
    return library
