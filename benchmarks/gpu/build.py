"""Parts that every call begins with: the package is installed, and what it is measured on is told."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from benchmarks.gpu.parts import Settings
from benchmarks.gpu.programs import ROOT, package_versions, program_versions, run

_KEPT_LINES = 60
_LIBRARY = ROOT / "crossd_ops" / "lib" / "libcrossd_ops.so"
# Offline, by the tools that are there. Where the environment cannot be written to, or pip is missing, in place, with
# metadata beside it: whatever runs in the checkout finds the package then.
_INSTALL = ["-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "--editable", "."]
_IN_PLACE = ["setup.py", "build_ext", "--inplace", "egg_info"]


def build(settings: Settings) -> dict[str, Any]:
    """Installs the package as it is here, compiling what is not compiled yet, and asks it whether it serves them all.

    A dry run leaves the environment as it is, and builds in place where there is no library at all.
    """
    result: dict[str, Any] = {"programs": program_versions(), "attempts": []}
    if settings.dry_run:
        commands = [] if _LIBRARY.exists() else [_IN_PLACE]
        environment = {"CROSSD_CUDA": "0"}
    else:
        commands = [_INSTALL, _IN_PLACE]
        major, minor = torch.cuda.get_device_capability()
        environment = {"CROSSD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    for arguments in commands:
        attempt = _attempt(arguments, environment)
        result["attempts"].append(attempt)
        settings.save(result)
        if attempt["exit_status"] == 0:
            break
    # In a process of its own: an import here would hold the library of before.
    status, lines = run([sys.executable, "-m", "crossd_ops"])
    faults = [] if status == 0 else lines[-_KEPT_LINES:]
    if result["attempts"] and result["attempts"][-1]["exit_status"] != 0:
        faults.insert(0, "not built")  # what answers may be a library of other sources
    return {**result, "faults": faults, "passed": not faults}


def _attempt(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    start = time.monotonic()
    status, lines = run([sys.executable, *arguments], **environment)
    print("\n".join(lines), flush=True)
    return {
        "command": " ".join(["python", *arguments]),
        "environment": environment,
        "exit_status": status,
        "seconds": round(time.monotonic() - start, 1),
        "output": lines[-_KEPT_LINES:] if status else lines[-3:],
    }


def environment(settings: Settings) -> dict[str, Any]:
    """Commit, GPU, driver and versions."""
    import crossd_ops
    from benchmarks.environment import describe_environment

    device = torch.device(settings.device)
    facts = describe_environment(device)
    if settings.commit:
        facts["git_commit"] = settings.commit
    facts |= {"packages": package_versions(), "tools": program_versions()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["multiprocessors"] = properties.multi_processor_count
        facts["l2_bytes"] = getattr(properties, "L2_cache_size", None)
        facts["gpus"] = torch.cuda.device_count()
        facts["cudnn"] = torch.backends.cudnn.version()
    return {**facts, "passed": crossd_ops.backend(device) == "compiled"}
