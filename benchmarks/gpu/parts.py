"""The parts of the run: what each is called, what it does, how long it may take, and which call runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SaveRows = Callable[[dict[str, Any]], None]

CALL_SECONDS = 530.0  # of one call: a machine may be lent for ten minutes, and an interpreter has to start
BUILD = "build"  # nothing is measured or tested without it


@dataclass(frozen=True)
class Settings:
    """What a part is told. `seconds`: its time limit, to choose how much to do; at its end it is ended."""

    device: str
    dry_run: bool
    seconds: float
    commit: str | None
    save: SaveRows  # keeps what there is so far, should the part be cut off


@dataclass(frozen=True)
class Part:
    """A function `settings -> result as JSON values`, imported only in the process that runs it."""

    function: str
    seconds: float
    about: str
    of_machine: bool = False  # begins every call, whatever an older file says: the machine may be another, and bare
    takes_rest: bool = False  # may take, beyond its seconds, what others leave over

    def load(self) -> Callable[[Settings], dict[str, Any]]:
        """The function."""
        module, _, name = self.function.partition(":")
        function: Callable[[Settings], dict[str, Any]] = getattr(importlib.import_module(module), name)
        return function


_MEASURES = "benchmarks.gpu.measurements."

# What is essential comes first: a call may be cut off.
PARTS: dict[str, Part] = {
    BUILD: Part("benchmarks.gpu.build:build", 120, "install for this GPU's architecture", of_machine=True),
    "environment": Part("benchmarks.gpu.build:environment", 15, "commit, GPU, driver, versions", of_machine=True),
    "self_test": Part("benchmarks.gpu.checks:self_test", 30, "crossd_ops.self_test() on the GPU"),
    "cuda_tests": Part("benchmarks.gpu.checks:cuda_tests", 70, "tests that need a GPU"),
    "sanitizer": Part("benchmarks.gpu.checks:sanitizer", 80, "compute-sanitizer's four tools over every kernel"),
    "kernels": Part("benchmarks.gpu.checks:kernels", 20, "which kernels the calls under the sanitizer launch"),
    "suite": Part("benchmarks.gpu.checks:suite", 195, "all other tests", takes_rest=True),
    "bandwidth": Part(_MEASURES + "ceilings:bandwidth", 20, "the measured ceilings: copy, multiply-add"),
    "operators": Part(
        _MEASURES + "operators:operators", 170, "each operator against its alternatives", takes_rest=True
    ),
    "networks": Part(_MEASURES + "networks:networks", 100, "training steps of whole networks"),
    "convolutions": Part(_MEASURES + "convolutions:convolutions", 50, "methods of the per-sample convolution"),
    "compiled": Part(_MEASURES + "operators:compiled_operators", 55, "operators against torch.compile's"),
}

# Each is one command, which needs nothing of the other: it begins with the parts of the machine, then runs these.
CALLS: dict[str, tuple[str, ...]] = {
    "check": ("self_test", "cuda_tests", "sanitizer", "kernels", "suite"),
    "measure": ("bandwidth", "operators", "networks", "convolutions", "compiled"),
}

PREDICTED_PARTS = CALLS["measure"]  # `python -m benchmarks.gpu predict` has the rows of all that is measured
