"""How long calls take: on a GPU by its own events, on the CPU by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_SECONDS = 2e-3  # of one turn: short calls are repeated


def seconds_of(
    calls: Mapping[str, Callable[[], object]], device: torch.device, turns: int, progress: Callable[[], object]
) -> dict[str, float]:
    """Median seconds of each call, which take turns, after one to warm up; `progress` is told of each turn."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, int(_SECONDS / max(_seconds(call, 1, device), 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            found[name].append(_seconds(call, counts[name], device))
        progress()
    return {name: statistics.median(times) for name, times in found.items()}


def _seconds(call: Callable[[], object], count: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count
    event: Any = torch.cuda.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    with torch.cuda.device(device):
        first.record()
        for _ in range(count):
            call()
        last.record()
        last.synchronize()
    elapsed: float = first.elapsed_time(last)
    return 1e-3 * elapsed / count
