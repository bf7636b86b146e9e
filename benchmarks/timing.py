"""Timing of alternatives against each other: medians of single calls, taken in turns within one run.

Turns matter more than repetitions: whatever else the machine does then hits every candidate alike, and their ratio
suffers less than the milliseconds do.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

_LEAST_ROUNDS = 3
_LEAST_FLUSH_BYTES = 2**28  # several times the L2 cache of any GPU of today
# How long a GPU is kept busy while the host queues a call: the cycles in twice that time at 2 GHz, within these bounds.
_CYCLES_PER_HOST_SECOND = 4e9
_LEAST_CYCLES, _MOST_CYCLES = 2**17, 2**28
_TIMED_BY_HOST = 3


@dataclass(frozen=True)
class Timing:
    """Seconds per call over `calls` single calls.

    Of a call on a GPU also the host's seconds to queue it, and whether the GPU had to wait for the host meanwhile, so
    that median and minimum are the host's time and not the GPU's.
    """

    median: float
    minimum: float
    calls: int
    host_seconds: float | None = None
    host_bound: bool = False


def summarize(seconds: list[float]) -> Timing:
    """Median, minimum and number of measured calls."""
    if not seconds:
        raise ValueError("seconds: expected at least one measurement, got none")
    return Timing(statistics.median(seconds), min(seconds), len(seconds))


@contextlib.contextmanager
def cudnn_benchmark(benchmark: bool) -> Iterator[None]:
    """Whether cuDNN chooses its convolutions by measurement, as training scripts let it; nothing else is changed.

    `torch.backends.cudnn.flags` would reset every flag that it is not given: without `enabled`, cuDNN is off.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def flush_memory(device: torch.device) -> torch.Tensor:
    """Memory that fills a GPU's L2 cache when it is written, one launch; next to nothing on a CPU."""
    if device.type != "cuda":
        return torch.empty(1, dtype=torch.int8)
    cache_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
    return torch.empty(max(2 * cache_bytes, _LEAST_FLUSH_BYTES), dtype=torch.int8, device=device)


class _HostClock:
    """Wall clock of the host, for work that is done when the call returns."""

    host_seconds: float | None = None
    host_bound = False

    def prepare(self, call: Callable[[], object]) -> None:
        call()

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
    """Events on the current stream, around consecutive calls: the GPU's time for one, or the host's if it is longer.

    So long is a step of a training loop.
    """

    host_bound = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.host_seconds: float | None = None

    def prepare(self, call: Callable[[], object]) -> None:
        """Once to allocate and compile, then to learn how long the host takes."""
        call()
        self.host_seconds = min(self._time_host(call) for _ in range(_TIMED_BY_HOST))

    def measure(self, call: Callable[[], object], calls: int) -> list[float]:
        start, end = _events()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) / 1e3 / calls] * calls

    def _time_host(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize(self._device)
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class _BusyCudaClock(_CudaClock):
    """Events around single calls, each with the L2 cache overwritten: the GPU's time alone.

    The GPU spins until the host has queued the call; a measurement in which it did not spin long enough is repeated.
    Where no time is enough, as the call itself waits for the GPU, or queues more than the GPU's queue holds, the clock
    is host-bound.
    """

    def __init__(self, device: torch.device, flush: torch.Tensor) -> None:
        super().__init__(device)
        self._flush, self._cycles = flush, _LEAST_CYCLES
        self.host_bound = False

    def prepare(self, call: Callable[[], object]) -> None:
        super().prepare(call)
        assert self.host_seconds is not None
        self._cycles = max(_LEAST_CYCLES, min(_MOST_CYCLES, int(self.host_seconds * _CYCLES_PER_HOST_SECOND)))

    def measure(self, call: Callable[[], object], calls: int) -> list[float]:
        pairs = [self._queue(call) for _ in range(calls)]
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def _queue(self, call: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        while True:
            start, end = _events()
            self._flush.zero_()
            torch.cuda._sleep(self._cycles)
            start.record()
            call()
            end.record()
            if self.host_bound or not start.query():
                return start, end
            self.host_bound = self._cycles == _MOST_CYCLES
            self._cycles = _LEAST_CYCLES if self.host_bound else min(2 * self._cycles, _MOST_CYCLES)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def measure_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    seconds_budget: float = 20.0,
    seconds_per_turn: float = 0.05,
    maximum_calls_per_turn: int = 20,
    consecutive: bool = False,
) -> dict[str, Timing]:
    """Time every candidate in each of `rounds` rounds; a fast one is called several times in its turn.

    Once `seconds_budget` is spent no further round begins, but the first three are always made. The first calls of each
    candidate are not counted: they allocate, warm up and tell how many calls fill a turn. On a GPU it is its own time
    that counts, call by call from a cold cache; with `consecutive` that of calls one after the other, as in a training
    loop, where the host's time counts if it is longer.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    clocks = _make_clocks(candidates, device, consecutive)
    calls = {}
    for name, call in candidates.items():
        clocks[name].prepare(call)
        estimate = clocks[name].measure(call, 1)[0]
        calls[name] = max(1, min(maximum_calls_per_turn, int(seconds_per_turn / max(estimate, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds_budget
    for finished in range(rounds):
        if finished >= _LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, call in candidates.items():
            seconds[name] += clocks[name].measure(call, calls[name])
    return {
        name: replace(summarize(values), host_seconds=clocks[name].host_seconds, host_bound=clocks[name].host_bound)
        for name, values in seconds.items()
    }


def _make_clocks(
    names: Iterable[str], device: torch.device, consecutive: bool
) -> Mapping[str, _HostClock | _CudaClock]:
    if device.type != "cuda":
        return {name: _HostClock() for name in names}
    if consecutive:
        return {name: _CudaClock(device) for name in names}
    flush = flush_memory(device)
    return {name: _BusyCudaClock(device, flush) for name in names}
