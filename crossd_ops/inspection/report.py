"""What `python -m crossd_ops` tells: versions, what was built, what this machine has, which backend runs and why."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import torch

from ..library import loaded
from ..library.diagnosis import Gpu, kernels_for
from ..library.facts import build_facts
from ..operators import backends


def describe() -> dict[str, Any]:
    """The report as plain values: "versions", "built", "machine", and "devices", a list with backend and reason.

    Starts CUDA, where torch has it, to ask for the GPUs.
    """
    gpus = loaded.gpus()
    facts = build_facts()
    return {
        "versions": {
            "crossd_ops": _installed_version(),
            "torch": str(torch.__version__),
            "cuda_of_torch": torch.version.cuda,
            "python": sys.version.split()[0],
        },
        "built": {
            "library": None if loaded.load_error else str(loaded.LIBRARY_PATH),
            "library_error": loaded.load_error,
            **(facts or {}),
        },
        "machine": {
            "system": platform.platform(),
            "cpu_instructions_in_use": loaded.cpu_capability(),
            "threads": torch.get_num_threads(),
            "cuda_of_driver": loaded.driver_cuda(),
            "gpus": [
                {
                    "device": f"cuda:{gpu.number}",
                    "name": gpu.name,
                    "compute_capability": "{}.{}".format(*gpu.capability),
                }
                for gpu in gpus
            ],
        },
        "devices": [_device("cpu", None, facts), *(_device("cuda", gpu, facts) for gpu in gpus)],
    }


def is_healthy(report: dict[str, Any]) -> bool:
    """Whether every device of the report has its compiled kernels."""
    return all(device["backend"] == backends.COMPILED for device in report["devices"])


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for title in ("versions", "built", "machine"):
        lines.append(title.capitalize())
        for name, value in report[title].items():
            shown = value
            if isinstance(value, list):
                shown = ", ".join(" ".join(item.values()) if isinstance(item, dict) else str(item) for item in value)
            lines.append(f"  {name.replace('_', ' '):24} {'none' if value in (None, []) else shown}")
    lines.append("Backends")
    lines += [f"  {device['device']:24} {device['backend']}: {device['why']}" for device in report["devices"]]
    return "\n".join(lines)


def _installed_version() -> str | None:
    try:
        return metadata.version("crossd_ops")
    except metadata.PackageNotFoundError:  # a source tree on the path
        return None


def _device(device_type: str, gpu: Gpu | None, facts: dict[str, Any] | None) -> dict[str, str]:
    """Which backend a device uses and why; `missing_kernels` names cause and cure where it is the reference."""
    name = device_type if gpu is None else f"{device_type}:{gpu.number}"
    if device_type not in loaded.devices:
        return {"device": name, "backend": backends.REFERENCE, "why": loaded.missing_kernels(device_type)}
    if gpu is None:
        why = f"the library loads; its {loaded.cpu_capability()} kernels fit this processor"
    else:
        kernels = kernels_for(gpu, loaded.driver_cuda(), facts) if facts else None
        why = f"the library loads; its {kernels or 'CUDA'} kernels fit {gpu.name}"
    return {"device": name, "backend": backends.COMPILED, "why": why}
