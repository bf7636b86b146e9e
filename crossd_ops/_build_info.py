"""What was built, and what of it is in use here."""

from __future__ import annotations

from typing import Any

import torch

from . import _backend, _library
from ._build_facts import build_facts


def build_info() -> dict[str, Any]:
    """Facts for bug reports, as plain values; `python -m crossd_ops` tells them with their reasons.

    "library": path of the compiled operators, or None; "library_error": why they did not load, or None;
    "devices": device types that have compiled kernels; "backends": the names `use_backend` accepts;
    "torch": the version that runs; "build": version, compiler, platform, torch and CUDA of the build, or None.
    """
    return {
        "torch": str(torch.__version__),
        "library": None if _library.load_error else str(_library.LIBRARY_PATH),
        "library_error": _library.load_error,
        "devices": sorted(_library.devices - {"meta"}),
        "backends": list(_backend.names()),
        "build": build_facts(),
    }
