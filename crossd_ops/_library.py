"""Finds and loads the compiled operators, and tells torch the shapes of their results.

The package works without them: what kept them from loading is remembered for `build_info` and for error messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIBRARY_PATH = Path(__file__).parent / "lib" / "libcrossd_ops.so"
_OPERATORS = tuple(
    f"crossd_ops::{name}{suffix}" for name in ("fourier_shift", "rotation_head") for suffix in ("", "_backward")
)
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _load() -> str | None:
    """Loads the library; the reason where that is not possible."""
    if not LIBRARY_PATH.exists():
        return f"{LIBRARY_PATH} does not exist"
    try:
        load: Any = torch.ops.load_library
        load(str(LIBRARY_PATH))
    except (OSError, RuntimeError) as error:  # built for another platform or another torch, or a part of it is missing
        return f"{LIBRARY_PATH} does not load: {error}"
    return None


def _devices() -> frozenset[str]:
    """Device types on whose tensors the operators run; meta tensors have shapes alone."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    built = {device for device, key in _DISPATCH_KEYS.items() if all(has_kernel(name, key) for name in _OPERATORS)}
    return frozenset(built | {"meta"})


load_error: str | None = _load()
devices: frozenset[str] = frozenset() if load_error else _devices()


def missing_kernels(device_type: str) -> str:
    """Why the compiled operators do not run on this device type, and what helps."""
    if device_type not in _DISPATCH_KEYS:
        return f"crossd_ops has no compiled kernels for {device_type} devices"
    cause = load_error or f"{LIBRARY_PATH} was built without {_DISPATCH_KEYS[device_type]} kernels"
    cure = "reinstall crossd_ops where a C++ compiler is present"
    if device_type == "cuda":
        cure = "reinstall crossd_ops where nvcc is present, with CROSSD_CUDA=1"
    return f"the compiled operators of crossd_ops are missing for {device_type}: {cause}; to have them, {cure}"


def _fourier_shift_shape(weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype) -> Tensor:
    spatial = list(weight.shape[2:])
    if index is not None:
        del spatial[dim]
    return weight.new_empty((shift.shape[0], weight.shape[0], weight.shape[1], *spatial), dtype=dtype)


def _fourier_shift_backward_shape(
    grad: Tensor, weight: Tensor, shift: Tensor, dim: int, index: int | None, need_weight: bool, need_shift: bool
) -> tuple[Tensor, Tensor]:
    return (
        weight.new_empty(weight.shape if need_weight else (0,)),
        shift.new_empty(shift.shape if need_shift else (0,)),
    )


if load_error is None:
    torch.library.register_fake("crossd_ops::fourier_shift", _fourier_shift_shape)
    torch.library.register_fake("crossd_ops::fourier_shift_backward", _fourier_shift_backward_shape)
