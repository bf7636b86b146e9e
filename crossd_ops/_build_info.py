"""What was built, and what of it is in use here."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from . import _backend, _library


def build_info() -> dict[str, Any]:
    """Facts for bug reports, as plain values.

    "library": path of the compiled operators, or None; "library_error": why they did not load, or None;
    "devices": device types that have compiled kernels; "backends": the names `use_backend` accepts;
    "torch": the version that runs; and, where `crossd_ops._C` was built, its facts of the build (compiler, CUDA version
    and architectures, kernel sizes with a fast path).
    """
    info: dict[str, Any] = {
        "torch": str(torch.__version__),
        "library": None if _library.load_error else str(_library.LIBRARY_PATH),
        "library_error": _library.load_error,
        "devices": sorted(_library.devices - {"meta"}),
        "backends": list(_backend.names()),
    }
    try:
        facts = importlib.import_module("crossd_ops._C")
    except ImportError as error:  # optional: it only tells, nothing computes with it
        info["build_facts_error"] = str(error)
    else:
        info.update(facts.build_info())
    return info
