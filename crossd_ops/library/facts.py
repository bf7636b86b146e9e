"""What the build said of itself, readable also where the compiled library cannot be loaded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

_WRITTEN = Path(__file__).parents[1] / "lib" / "build.json"


def build_facts() -> dict[str, Any] | None:
    """Version, compiler, platform, torch and CUDA of the build, see setup.py; None where nothing is known.

    "torch_target" is the oldest torch that the library runs on; "cuda_version" is None where it has no CUDA kernels;
    "cuda_architectures" are sm_90 for machine code and compute_90 for PTX, which newer GPUs translate.
    """
    try:
        facts: dict[str, Any] = json.loads(_WRITTEN.read_text())
    except (OSError, ValueError):
        try:
            facts = importlib.import_module("crossd_ops._C").build_info()
        except ImportError:  # left out of wheels, which are for every Python
            return None
    return facts
