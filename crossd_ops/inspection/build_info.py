"""What was built, and what of it is in use here."""

from __future__ import annotations

from typing import Any

import torch

from ..library import loaded
from ..library.facts import build_facts
from ..operators import backends


def build_info() -> dict[str, Any]:
    """Facts for bug reports, as plain values; `python -m crossd_ops` tells them with their reasons.

    "library": path of the compiled operators, or None; "library_error": why they did not load, or None;
    "devices": device types that have compiled kernels; "backends": the names `use_backend` accepts;
    "torch": the version that runs; "build": version, compiler, platform, torch and CUDA of the build, or None.
    """
    return {
        "torch": str(torch.__version__),
        "library": None if loaded.load_error else str(loaded.LIBRARY_PATH),
        "library_error": loaded.load_error,
        "devices": sorted(loaded.devices - {"meta"}),
        "backends": list(backends.names()),
        "build": build_facts(),
    }
