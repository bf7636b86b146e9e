"""What the figures were taken on: machine, versions, build."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import crossd_ops

_REPOSITORY = Path(__file__).resolve().parent.parent


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Everything needed to judge or repeat a run, as plain JSON values."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "crossd_ops": crossd_ops.__version__,
        "backend": crossd_ops.backend(device),
        "build": _plain(crossd_ops.build_info()),
        "git_commit": _git_commit(),
        "device": str(device),
        "gpu": _describe_gpu(device),
    }


class OtherCpuUse:
    """Share of the machine's CPU time since construction taken by other processes than this one and its children."""

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not say."""
        end = self._read()
        if self._start is None or end is None:
            return None
        total, busy, own = (after - before for after, before in zip(end, self._start, strict=True))
        return round(min(1.0, max(0.0, (busy - own) / total)), 3) if total > 0 else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """CPU seconds: of the machine, of these not idle, of these by this process and its finished children."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, idle, waiting, *rest = (int(value) / os.sysconf("SC_CLK_TCK") for value in fields)
        busy = user + nice + system + sum(rest)
        return busy + idle + waiting, busy, sum(os.times()[:4])


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _describe_gpu(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda_of_torch": torch.version.cuda,
        "driver": _command_output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
    }


def _git_commit() -> str | None:
    """Commit of the checkout, with `-dirty` where files differ from it; None outside a checkout."""
    commit = _command_output(["git", "-C", str(_REPOSITORY), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changes = _command_output(["git", "-C", str(_REPOSITORY), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}-dirty" if changes else commit


def _command_output(command: list[str]) -> str | None:
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def _plain(value: Any) -> Any:
    """`value` with everything that JSON lacks replaced by its text, and the folders of absolute paths left out."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"()]+/)+", "", str(value))
