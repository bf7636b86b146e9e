"""What torch dispatches when something runs, recorded without a GPU and without memory: sizes, strides and types.

Tensors are fakes, on the CPU since torch without CUDA has no others that autograd takes. crossd_ops goes the way that
it goes on a GPU (`gpu_stand_in`); one of its operators that calls others inside of the library is replaced by these
(compositions/). Autocast has the CPU's list of operators: of the networks here the losses alone differ.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import crossd_ops
from benchmarks.gpu.prediction.compositions import COMPOSITIONS
from crossd_ops.layers import skipped_head, straight
from crossd_ops.library import loaded
from crossd_ops.operators import head, plain_head

_HEAD_FILES = tuple(str(Path(head.__file__).with_name(f"{name}.py")) for name in ("head", "rotation_head"))
_SHIFT_FILES = (str(Path(crossd_ops.reference.__file__)),)
_OPTIMIZER_FOLDER = str(Path(torch.optim.__file__).parent)
PARTS = ("shift", "head", "convolution", "norm", "optimizer", "rest")


@dataclass(frozen=True)
class Array:
    """A tensor: what a model has to know of it."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    dtype: str
    item_bytes: int
    memory: int  # equal for tensors that share theirs

    @property
    def elements(self) -> int:
        """Those that are different: an expanded tensor has fewer than its sizes tell."""
        return math.prod(size for size, stride in zip(self.sizes, self.strides, strict=True) if stride != 0)

    @property
    def bytes(self) -> int:
        return self.elements * self.item_bytes

    @property
    def channels_last(self) -> bool:
        """Whether the channels, axis 1, follow each other in memory, and nothing else would be said of contiguous."""
        return len(self.sizes) > 2 and self.strides[1] == 1 and math.prod(self.sizes[2:]) > 1 and self.sizes[1] > 1


@dataclass(frozen=True)
class Call:
    """One dispatched operator. `arguments` by their names in its schema, tensors as arrays, defaults filled in."""

    operator: str  # "aten.add"
    arguments: dict[str, Any]
    results: tuple[Array, ...]
    is_view: bool = False  # its results are parts of its arguments
    part: str = "rest"  # of PARTS: whose work it is

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def arrays(self) -> list[Array]:
        """The tensors among the arguments, those in lists too."""
        return [array for value in self.arguments.values() for array in _arrays_in(value)]


def _arrays_in(value: Any) -> list[Array]:
    if isinstance(value, Array):
        return [value]
    return [array for one in value for array in _arrays_in(one)] if isinstance(value, (list, tuple)) else []


class LiveMemory:
    """Bytes of the tensors that operators have made and that are still there, in blocks of torch's allocator.

    What an operator has inside of it is not seen, a library's workspace above all.
    """

    _BLOCK = 512

    def __init__(self) -> None:
        self.bytes = self.peak = 0
        self._live: dict[int, weakref.ref[Any]] = {}

    def add(self, made: list[Tensor], given: list[Tensor]) -> None:
        """Takes the results of an operator, some of which may be parts of its arguments."""
        known = {tensor.untyped_storage()._cdata for tensor in given}
        for storage in (tensor.untyped_storage() for tensor in made):
            key: int = storage._cdata
            if key in known or key in self._live:
                continue
            size = math.ceil(storage.nbytes() / self._BLOCK) * self._BLOCK
            self._live[key] = weakref.ref(storage, functools.partial(self._free, key, size))
            self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _free(self, key: int, size: int, _: object) -> None:
        del self._live[key]
        self.bytes -= size


class Recorder(TorchDispatchMode):
    """Records what is dispatched inside of its `with` block."""

    def __init__(self, memory: LiveMemory) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._memory = memory
        self._memories: list[StorageWeakRef] = []  # while these are there no other memory has their numbers
        self._part: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ("prim", "profiler"):
            return func(*args, **kwargs)
        with self:  # what is made of others anyway: contiguous, to, flatten
            results = func.decompose(*args, **kwargs)
        if results is not NotImplemented:
            return results
        results = func(*args, **kwargs)
        compose = COMPOSITIONS.get(_name(func))
        if compose is None:
            self.calls.append(self._call(func, args, kwargs, results))
        else:
            outer, self._part = self._part, "convolution"
            try:
                with self, torch.no_grad():
                    compose(*args, **kwargs)
            finally:
                self._part = outer
        # The results of a composition are there twice, and count when its own are gone.
        self._memory.add(_tensors_in(results), _tensors_in((args, tuple(kwargs.values()))))
        return results

    def _call(self, func: Any, args: Any, kwargs: Any, results: Any) -> Call:
        named = {argument.name: argument.default_value for argument in func._schema.arguments}
        named |= dict(zip(named, args, strict=False)) | kwargs
        arguments = {name: self._described(value) for name, value in named.items()}
        outputs = self._described(results if isinstance(results, (list, tuple)) else [results])
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
        found = tuple(output for output in outputs if isinstance(output, Array))
        call = Call(_name(func), arguments, found, is_view)
        return Call(call.operator, arguments, found, is_view, _part_of(call, self._part))

    def _described(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            # Held weakly: autograd copies a gradient that somebody else holds.
            self._memories.append(StorageWeakRef(value.untyped_storage()))
            sizes, strides = tuple(map(int, value.shape)), tuple(map(int, value.stride()))
            dtype = str(value.dtype).removeprefix("torch.")
            return Array(sizes, strides, dtype, value.element_size(), self._memories[-1].cdata)
        return [self._described(one) for one in value] if isinstance(value, (list, tuple)) else value


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in _tensors_in(one)] if isinstance(value, (list, tuple)) else []


def _name(func: Any) -> str:
    return f"{func.namespace}.{func._schema.name.partition('::')[2]}"


def _part_of(call: Call, forced: str | None) -> str:
    """By the operator, or by who has called it: the backward pass of a head runs inside of the head's own step."""
    if call.operator.startswith(("crossd_ops.fourier_shift", "crossd_prediction.tap_major_kernels")):
        return "shift"
    if forced is not None:
        return forced
    files = _files_above()
    if any(file in _HEAD_FILES for file in files):
        return "head"
    if any(file in _SHIFT_FILES for file in files) or any(a.dtype.startswith("complex") for a in call.arrays):
        return "shift"
    if any(file.startswith(_OPTIMIZER_FOLDER) for file in files):
        return "optimizer"
    if call.operator.startswith("aten.convolution"):
        return "convolution"
    return "norm" if "batch_norm" in call.operator else "rest"


def _files_above() -> set[str]:
    files: set[str] = set()
    frame = sys._getframe(2)
    while frame is not None:
        files.add(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    return files


@contextlib.contextmanager
def gpu_stand_in() -> Iterator[None]:
    """Inside the `with` block tensors are fakes on the CPU, with which crossd_ops does what it does on a GPU.

    Raises RuntimeError where the library is not there, which has the operators' schemas.
    """
    if loaded.load_error:
        raise RuntimeError(loaded.missing_kernels("cpu"))
    with (
        FakeTensorMode(),
        # A module's parameters cannot be exchanged where they are fakes, and there is one device.
        mock.patch.object(nn.Module, "to", lambda module, *_, **__: module),
        # Types of tensors that the operators take as they are.
        mock.patch.object(plain_head, "_TENSORS", (FakeTensor,)),
        mock.patch.object(skipped_head, "_PLAIN", (FakeTensor,)),
        mock.patch.object(straight, "Tensor", FakeTensor),
        mock.patch.object(straight, "nn", SimpleNamespace(Parameter=FakeTensor)),
    ):
        yield


def record(function: Callable[[], Any], memory: LiveMemory | None = None) -> tuple[Any, list[Call]]:
    """The result of a call, and what it dispatches; within `gpu_stand_in`. `memory` counts on."""
    recorder = Recorder(memory or LiveMemory())
    with recorder:
        result = function()
    return result, recorder.calls
