"""Timing of alternatives against each other: medians of single calls, taken in turns within one run.

Turns matter more than repetitions: whatever else the machine does then hits every candidate alike, and their ratio
suffers less than the milliseconds do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

# The events enclose the call alone, so a flush that outlasts the host's work for one call also keeps the latency of its
# launches out of the measurement.
_MINIMUM_FLUSH_BYTES = 256 * 2**20
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds per call over `calls` single calls."""

    median: float
    minimum: float
    calls: int


def summarize(seconds: list[float]) -> Timing:
    """Median, minimum and number of measured calls."""
    if not seconds:
        raise ValueError("seconds: expected at least one measurement, got none")
    return Timing(statistics.median(seconds), min(seconds), len(seconds))


class _HostClock:
    """Wall clock of the host, for work that is done when the call returns."""

    def measure(self, call: Callable[[], object], calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
            # Freed outside the measurement for every candidate alike: unmapping a large result takes milliseconds.
            del result
        return seconds


class _CudaClock:
    """Events on the current stream; the L2 cache is overwritten before every call."""

    def __init__(self, device: torch.device) -> None:
        cache_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self._device = device
        self._flush = torch.empty(max(2 * cache_bytes, _MINIMUM_FLUSH_BYTES), dtype=torch.int8, device=device)

    def measure(self, call: Callable[[], object], calls: int) -> list[float]:
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
        for start, end in events:
            self._flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) / 1e3 for start, end in events]


def measure_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    seconds_budget: float = 20.0,
    seconds_per_turn: float = 0.05,
    maximum_calls_per_turn: int = 20,
) -> dict[str, Timing]:
    """Time every candidate in each of `rounds` rounds; a fast one is called several times in its turn.

    Once `seconds_budget` is spent no further round begins, but the first three are always made. The first two calls of
    each candidate are not counted: they allocate, warm up and tell how many calls fill a turn.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    clock = _CudaClock(device) if device.type == "cuda" else _HostClock()
    calls = {}
    for name, call in candidates.items():
        clock.measure(call, 1)
        estimate = clock.measure(call, 1)[0]
        calls[name] = max(1, min(maximum_calls_per_turn, int(seconds_per_turn / max(estimate, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds_budget
    for finished in range(rounds):
        if finished >= _LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, call in candidates.items():
            seconds[name] += clock.measure(call, calls[name])
    return {name: summarize(values) for name, values in seconds.items()}
