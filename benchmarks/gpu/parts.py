"""The parts of the run: what each is called, what it does and how long it may take."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SaveRows = Callable[[dict[str, Any]], None]


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

    def load(self) -> Callable[[Settings], dict[str, Any]]:
        """The function."""
        module, _, name = self.function.partition(":")
        function: Callable[[Settings], dict[str, Any]] = getattr(importlib.import_module(module), name)
        return function


# In this order: what is measured has been built and checked. The limits are ceilings; a usual run is well below them,
# and what is left of the whole run's time goes to the suite.
PARTS: dict[str, Part] = {
    "build": Part("benchmarks.gpu.checks:build", 150, "compile the package in place, for this GPU's architecture"),
    "environment": Part("benchmarks.gpu.checks:environment", 30, "commit, GPU, driver, versions"),
    "self_test": Part("benchmarks.gpu.checks:self_test", 40, "crossd_ops.self_test() on the GPU"),
    "cuda_tests": Part("benchmarks.gpu.checks:cuda_tests", 120, "tests that need a GPU"),
    "sanitizer": Part("benchmarks.gpu.checks:sanitizer", 120, "compute-sanitizer's four tools over every kernel"),
    "bandwidth": Part("benchmarks.gpu.ceilings:bandwidth", 30, "the measured ceilings: copy, multiply-add"),
    "operators": Part("benchmarks.gpu.operators:operators", 120, "each operator against its alternatives"),
    "networks": Part("benchmarks.gpu.networks:networks", 90, "training steps of whole networks"),
    "convolutions": Part("benchmarks.gpu.convolutions:convolutions", 40, "methods of the per-sample convolution"),
    "suite": Part("benchmarks.gpu.checks:suite", 400, "the whole test suite"),
}
