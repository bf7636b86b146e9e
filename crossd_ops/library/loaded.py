"""Finds and loads the compiled operators, and tells torch the shapes of their results.

The package works without them: what kept them from loading is remembered for `build_info` and for error messages.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diagnosis import Diagnosis, Gpu, file_problem, gpu_problem, load_problem
from .facts import build_facts

LIBRARY_PATH = Path(__file__).parents[1] / "lib" / "libcrossd_ops.so"
_OPERATORS = tuple(
    f"crossd_ops::{name}{suffix}"
    for name in ("fourier_shift", "convolution", "sample_convolution", "rotation_head")
    for suffix in ("", "_backward")
)
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _load() -> Diagnosis | None:
    """Loads the library; what is wrong where that is not possible."""
    problem = file_problem(LIBRARY_PATH)
    if problem:
        return problem
    if torch._C._jit_get_schemas_for_operator("crossd_ops::fourier_shift") and not _is_loaded():
        # Its operators would be registered a second time, which ends the process.
        return Diagnosis(
            f"{LIBRARY_PATH} does not load: another copy of it is loaded already",
            "let Python and C++ use one crossd_ops: link the library that crossd_ops.cmake_prefix_path leads to",
        )
    try:
        load: Any = torch.ops.load_library
        load(str(LIBRARY_PATH))
    except (OSError, RuntimeError) as error:
        return load_problem(LIBRARY_PATH, str(error.__cause__ or error), str(torch.__version__), build_facts())
    return _missing_operators()


def _missing_operators() -> Diagnosis | None:
    """What is wrong with a library that loaded, but was built from other sources than this package."""
    for name in _OPERATORS:
        if not torch._C._jit_get_schemas_for_operator(name):
            return Diagnosis(
                f"{LIBRARY_PATH} has no operator {name}: it belongs to another version of the package",
                "build it again: make build in a checkout, or reinstall crossd_ops",
            )
    return None


def _is_loaded() -> bool:
    try:
        ctypes.CDLL(str(LIBRARY_PATH), mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def _devices() -> frozenset[str]:
    """Device types on whose tensors the operators run; meta tensors have shapes alone."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    built = {device for device, key in _DISPATCH_KEYS.items() if all(has_kernel(name, key) for name in _OPERATORS)}
    if torch.version.hip:  # its devices are named cuda, and are none
        built.discard("cuda")
    return frozenset(built | {"meta"})


_load_problem: Diagnosis | None = _load()
load_error: str | None = _load_problem.cause if _load_problem else None
devices: frozenset[str] = frozenset() if load_error else _devices()
# Whether an operator is there for every device that it has a kernel for: it may then be called without a look at the
# device, since torch refuses where there is none.
runs_wherever_built: bool = load_error is None and not torch.version.hip
_gpu_problem: Diagnosis | None = None


def driver_cuda() -> str | None:
    """The newest CUDA that the NVIDIA driver supports, such as "13.0"; None where there is no driver."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if status else f"{version.value // 1000}.{version.value % 1000 // 10}"


def gpus() -> list[Gpu]:
    """The GPUs that torch sees; starts CUDA."""
    if not torch.cuda.is_available():
        return []
    indices = range(torch.cuda.device_count())
    return [Gpu(i, torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in indices]


def _examine_gpus() -> None:
    """Leaves CUDA tensors to the reference where a GPU cannot run the kernels: the launch would be an error."""
    global devices, runs_wherever_built, _gpu_problem
    _gpu_problem = gpu_problem(gpus(), driver_cuda(), build_facts())
    if _gpu_problem:
        devices -= {"cuda"}
        runs_wherever_built = False


if "cuda" in devices:
    # When torch starts CUDA, which an import must not do: processes that fork later could not use it any more.
    torch.cuda._lazy_call(_examine_gpus)  # type: ignore[no-untyped-call]


def cpu_capability() -> str | None:
    """The instruction set of the CPU kernels in use: "baseline", "avx2" or "avx512"; None without the library.

    Raises:
        ValueError: CROSSD_CPU_CAPABILITY has a value that is none of these.
    """
    if load_error:
        return None
    function = ctypes.CDLL(str(LIBRARY_PATH)).crossd_ops_cpu_capability
    function.restype = ctypes.c_char_p
    name: str = function().decode()
    if name.startswith("!"):
        raise ValueError(name[1:])
    return name


def missing_kernels(device_type: str) -> str:
    """Why the compiled operators do not run on this device type, and what helps."""
    if device_type not in _DISPATCH_KEYS or (device_type == "cuda" and torch.version.hip):
        return f"crossd_ops has no compiled kernels for {'ROCm' if torch.version.hip else device_type} devices"
    problem = _load_problem or (_gpu_problem if device_type == "cuda" else None)
    if problem is None:
        problem = Diagnosis(
            f"{LIBRARY_PATH} was built without {_DISPATCH_KEYS[device_type]} kernels",
            "reinstall crossd_ops where nvcc is present, with CROSSD_CUDA=1",
        )
    return (
        f"the compiled operators of crossd_ops are missing for {device_type}: {problem.cause}; "
        f"to have them, {problem.cure}"
    )


def check_same_device(*tensors: Tensor | None) -> None:
    """Meta tensors lead to a fake whatever the others are, which a real operator refuses."""
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"expected tensors on one device, got {', '.join(sorted(map(str, devices)))}")


def _fourier_shift_shape(weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype) -> Tensor:
    check_same_device(weight, shift)
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


def register_fake(name: str, function: Callable[..., Any]) -> None:
    """Tells torch the sizes of an operator's results; again where the package is imported again in a process."""
    if load_error is None:
        torch.library.register_fake(f"crossd_ops::{name}", function, allow_override=True)


register_fake("fourier_shift", _fourier_shift_shape)
register_fake("fourier_shift_backward", _fourier_shift_backward_shape)
