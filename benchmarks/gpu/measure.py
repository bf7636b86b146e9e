"""One call in three ways: by events in turns with others, by the profiler kernel by kernel, and by its peak memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import measure_in_turns

Call = Callable[[], object]
_PROFILED_CALLS = 5
_FLUSH_BYTES = 2**28  # several times the L2 cache of any GPU of today


def measure(candidates: Mapping[str, Call], device: torch.device, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Of each candidate: times, launches, peak memory; or the error, where it cannot run here."""
    results: dict[str, Any] = {}
    working = {}
    for name, call in candidates.items():
        try:
            results[name] = {"peak_bytes": peak_bytes(call, device), **kernel_times(call, device)}
            working[name] = call
        except RuntimeError as error:  # out of memory, or a library that refuses
            results[name] = {"error": str(error).splitlines()[0][:300]}
            if device.type == "cuda":
                torch.cuda.empty_cache()
    timings = measure_in_turns(working, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.02)
    for name, timing in timings.items():
        results[name] |= {"seconds": timing.median, "minimum_seconds": timing.minimum, "calls": timing.calls}
    return results


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """What one call takes at most beyond what there was, its result included; None where torch does not count."""
    if device.type != "cuda":
        call()
        return None
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak


def kernel_times(call: Call, device: torch.device) -> dict[str, Any]:
    """Of one call: seconds in kernels, launches, the longest kernels; on the CPU operators stand in for kernels.

    The L2 cache is overwritten before each call. That is one launch, the first of its group; where the groups are not
    alike the profiler lost some, and nothing is reported.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    flush = torch.empty(_FLUSH_BYTES if on_gpu else 1, dtype=torch.int8, device=device)
    call()
    with profile(activities=activities) as profiler:
        for _ in range(_PROFILED_CALLS):
            flush.zero_()
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    nothing = {"kernel_seconds": None, "launches": None, "kernels": []}
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in profiler.events() if event.device_type == wanted and (on_gpu or not event.cpu_parent)]
    events.sort(key=lambda event: event.time_range.start)
    size, rest = divmod(len(events), _PROFILED_CALLS)
    groups = [events[first : first + size] for first in range(0, len(events), max(size, 1))]
    if rest or size == 0 or len({tuple(event.name for event in group) for group in groups}) != 1:
        return nothing
    seconds = [[event.time_range.elapsed_us() / 1e6 for event in group[1:]] for group in groups]
    each = [sorted(values)[_PROFILED_CALLS // 2] for values in zip(*seconds, strict=True)]
    longest = sorted(zip(each, (event.name for event in groups[0][1:]), strict=True), reverse=True)[:4]
    return {
        "kernel_seconds": sum(each),
        "launches": size - 1,
        "kernels": [{"name": name[:160], "seconds": value} for value, name in longest],
    }
