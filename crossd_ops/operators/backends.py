"""Which implementation runs: the compiled kernels where the device has them, the torch.fft reference elsewhere."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..library import loaded
from .checks import named_device

REFERENCE = "reference"
COMPILED = "compiled"


class Operators(Protocol):
    """The operators a backend has to offer; arguments as the schemas of the compiled library, already checked."""

    def fourier_shift(
        self, weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype
    ) -> Tensor: ...

    def fourier_shift_backward(
        self,
        grad: Tensor,
        weight: Tensor,
        shift: Tensor,
        dim: int,
        index: int | None,
        need_weight: bool,
        need_shift: bool,
    ) -> tuple[Tensor, Tensor]: ...

    def rotation_head(self, map: Tensor, exact: bool) -> tuple[Tensor, Tensor]: ...

    def rotation_head_backward(self, grad_shift: Tensor, map: Tensor, statistics: Tensor, exact: bool) -> Tensor: ...


def failed(weight: Tensor, check: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
    """Whether an operator failed although `check` has nothing to say about its arguments, and `weight` is served here.

    Full memory, or a hook of the user's: another try would do the work twice, and hide that something is wrong.
    """
    try:
        check(*arguments, **options)
    except Exception:
        return False
    return select(weight.device.type) == COMPILED


def run(operator: Callable[..., Any], *arguments: Any) -> Any:
    """What a compiled operator returns, or raises by `with_type`."""
    try:
        return operator(*arguments)
    except RuntimeError as error:
        raise with_type(error) from error.__cause__


def with_type(error: RuntimeError) -> RuntimeError:
    """An operator's error; where a GPU's memory is full as torch.OutOfMemoryError, which torch's own operators raise.

    The stable ABI lets no type of exception through, see csrc/common/errors.h.
    """
    if type(error) is RuntimeError and _is_of_gpu_memory(str(error)):
        return torch.OutOfMemoryError(str(error))
    return error


_times_out_of_memory = 0


def _is_of_gpu_memory(text: str) -> bool:
    global _times_out_of_memory
    before = _times_out_of_memory
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        devices = range(cuda.device_count())
        _times_out_of_memory = sum(cuda.memory_stats(device).get("num_ooms", 0) for device in devices)
    if text.startswith("CUDA out of memory"):
        return True
    # Before torch 2.13 reasons are lost, but the allocator counts how often it had no memory to give.
    return text.startswith("torch failed inside of crossd_ops") and _times_out_of_memory > before


class _CompiledOperators:
    def __init__(self) -> None:
        # The overloads, not the packets: a packet would resolve the overload anew at every call.
        operators = torch.ops.crossd_ops
        self.fourier_shift = functools.partial(run, operators.fourier_shift.default)
        self.fourier_shift_backward = functools.partial(run, operators.fourier_shift_backward.default)
        self.rotation_head = functools.partial(run, operators.rotation_head.default)
        self.rotation_head_backward = functools.partial(run, operators.rotation_head_backward.default)


_registry: dict[str, Operators] = {}
if loaded.load_error is None:
    _registry[COMPILED] = _CompiledOperators()

# Of the process, not of the thread: torch.compile guards on a global, and autograd has backward threads of its own.
forced: str | None = None
_warned_devices: set[str] = set()


def register(name: str, operators: Operators) -> None:
    """Makes a further implementation known under `name`, for `use_backend`."""
    if name == REFERENCE:
        raise ValueError(f"name: expected another name than {REFERENCE!r}, which differentiates torch.fft itself")
    _registry[name] = operators


def operators(name: str) -> Operators:
    """The implementation registered under `name`."""
    return _registry[name]


def names() -> tuple[str, ...]:
    """Every name that `use_backend` accepts here."""
    return (*_registry, REFERENCE)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Forces one implementation inside a `with` block: "compiled", or "reference" (torch.fft and its own gradients).

    Blocks nest, and an exception restores what was in force before. The setting belongs to the process: threads that
    need different backends at the same time have to take turns. A backward pass uses the backend of its forward pass,
    wherever it runs.

    Raises:
        ValueError: the name is not known.
        RuntimeError: the compiled operators are not there; the message says why.
    """
    global forced
    if name == COMPILED and name not in _registry:
        raise RuntimeError(loaded.missing_kernels("cpu"))
    if name not in names():
        raise ValueError(f"name: expected one of {', '.join(names())}, got {name!r}")
    previous = forced
    forced = name
    try:
        yield
    finally:
        forced = previous


def select(device_type: str) -> str:
    """The name of the implementation for tensors of this device type, inside or outside of `use_backend`."""
    if forced is not None:
        if forced == COMPILED and device_type not in loaded.devices:
            raise RuntimeError(loaded.missing_kernels(device_type))
        return forced
    if device_type in loaded.devices:
        return COMPILED
    if device_type == "cuda" and device_type not in _warned_devices:
        _warned_devices.add(device_type)
        warnings.warn(
            loaded.missing_kernels(device_type) + "; the torch.fft reference, many times slower, is used instead",
            RuntimeWarning,
            stacklevel=5,
        )
    return REFERENCE


def backend(device: torch.device | str | None = None) -> str:
    """The implementation used for tensors on `device` (default: torch's default device): "compiled" or "reference".

    Raises:
        TypeError, ValueError: `device` is no device.
    """
    return select((torch.get_default_device() if device is None else named_device(device)).type)
