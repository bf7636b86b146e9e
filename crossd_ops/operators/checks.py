"""Checks of arguments, made before any work and before a backend is chosen, so every backend reports the same text."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_KERNEL = 15
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DTYPE_NAMES = "float64, float32, bfloat16 or float16"


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a weight of `dtype` is shifted: float64 for float64, float32 for every other."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def int_of(value: Any) -> Any:
    """`value` as an int where it is one, or stands for one as NumPy's integers do; None for all else, as for bool.

    A symbolic size, of torch.compile or torch.export, stays symbolic.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def ints_of(value: Any, axes: int) -> tuple[int, ...] | None:
    """An int for each of the axes, of one int or of one each, in a tuple, a list or an array; None for all else."""
    if not isinstance(value, (tuple, list)):  # asked first: Dynamo of torch 2.11 does not survive the index of a tuple
        number = int_of(value)
        if number is not None:
            return (number,) * axes
        if not hasattr(value, "__array__"):
            return None
    try:
        numbers = [int_of(item) for item in value]
    except TypeError:  # a number of NumPy is an array too
        return None
    return tuple(numbers) if len(numbers) == axes and all(item is not None for item in numbers) else None


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    number: int | None = int_of(value)
    if number is None or number < 1:
        raise ValueError(f"{name}: expected a positive int, got {value!r}")
    return number


def named_device(device: Any) -> torch.device:
    """`torch.device(device)`, or what is wrong with it."""
    if not isinstance(device, torch.device | str | int):
        raise TypeError(f"device: expected a torch.device or its name, got {type(device).__name__}")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected a torch.device or its name, got {device!r}") from error


def check_tensor(name: str, value: Any) -> None:
    """`value` is a tensor of a supported floating type, with strides."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")
    check_dtype(name, value.dtype)
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else f"one of {value.layout}"
        raise TypeError(f"{name}: expected a tensor with strides, got {kind}")


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Of a tensor: a supported floating type."""
    if dtype not in DTYPES:
        raise TypeError(f"{name}: expected a dtype of {_DTYPE_NAMES}, got {dtype}")


def check_device(name: str, value: Tensor, weight: Tensor) -> None:
    """`value` is on the device of `weight`."""
    if value.device != weight.device:
        raise ValueError(f"{name}: expected the device of weight ({weight.device}), got {value.device}")


def check_weight_and_shift(weight: Tensor, shift: Tensor, dtype: torch.dtype | None) -> None:
    """weight (O, C, Kd, Kh, Kw), shift (B, 3), of supported types, on one device."""
    check_tensor("weight", weight)
    check_tensor("shift", shift)
    check_sizes_of_weight(weight.shape)
    shift_sizes = shift.shape
    if len(shift_sizes) != 2 or shift_sizes[1] != 3:
        raise ValueError(f"shift: expected (B, 3), got {tuple(shift_sizes)}")
    check_device("shift", shift, weight)
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype: expected {_DTYPE_NAMES}, got {dtype}")


def check_sizes_of_weight(sizes: Sequence[int]) -> None:
    """(O, C, Kd, Kh, Kw), with kernels that can be shifted."""
    if len(sizes) != 5:
        raise ValueError(f"weight: expected (O, C, Kd, Kh, Kw), got {tuple(sizes)}")
    for size in sizes[2:]:
        if not 1 <= size <= MAX_KERNEL:
            raise ValueError(f"weight: expected kernel sizes from 1 to {MAX_KERNEL}, got {tuple(sizes)}")


def axis_of(dim: Any) -> int:
    """`dim` counted from the start: 0 to 2."""
    axis: int | None = int_of(dim)
    if axis is None:
        raise TypeError(f"dim: expected an int, got {type(dim).__name__}")
    if not -3 <= axis <= 2:
        raise ValueError(f"dim: expected -3 to 2, got {dim}")
    return axis % 3


def position_of(index: Any, size: int) -> int:
    """`index` counted from the start: 0 to size - 1; none is the middle, size // 2."""
    if index is None:
        return size // 2
    position: int | None = int_of(index)
    if position is None:
        raise TypeError(f"index: expected an int or None, got {type(index).__name__}")
    if not -size <= position < size:
        raise ValueError(f"index: expected {-size} to {size - 1}, got {index}")
    return position % size


def check_slice(weight: Sequence[int], dim: int, index: int | None) -> tuple[int, int]:
    """`dim` and `index` counted from the start: 0 to 2, and 0 to K - 1; no index is the middle slice K // 2.

    `weight`: its sizes.
    """
    axis = axis_of(dim)
    return axis, position_of(index, weight[2 + axis])


def check_kind_of_rotation(rotation: str) -> None:
    """One that is known."""
    if rotation not in ("linear", "exact"):
        raise ValueError(f"rotation: expected 'linear' or 'exact', got {rotation!r}")


def check_rotation(axis: Tensor, angle: Tensor, rotation: str) -> None:
    """axis (B, 3), angle (B,) or (B, 1), a known kind of rotation."""
    check_tensor("axis", axis)
    check_tensor("angle", angle)
    check_kind_of_rotation(rotation)
    if axis.dim() != 2 or axis.shape[1] != 3:
        raise ValueError(f"axis: expected (B, 3), got {tuple(axis.shape)}")
    samples = axis.shape[0]
    if angle.shape != (samples,) and angle.shape != (samples, 1):
        raise ValueError(f"angle: expected ({samples},) or ({samples}, 1), got {tuple(angle.shape)}")
    if angle.device != axis.device:
        raise ValueError(f"angle: expected the device of axis ({axis.device}), got {angle.device}")
