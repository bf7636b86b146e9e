"""One call in three ways: by events in turns with others, by the profiler kernel by kernel, and by its peak memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import flush_memory, measure_in_turns

Call = Callable[[], object]
_PROFILED_CALLS = 5


def measure(candidates: Mapping[str, Call], device: torch.device, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Of each candidate: times, launches, peak memory; or the error, where it cannot run here.

    `seconds` are the GPU's, gaps between kernels included, `host_seconds` what the host takes to queue a call.
    """
    results: dict[str, Any] = {}
    working = {}
    for name, call in candidates.items():
        try:
            results[name] = {"peak_bytes": peak_bytes(call, device), **kernel_times(call, device)}
            working[name] = call
        except Exception as error:  # out of memory, a library that refuses, a compiler that is not there
            results[name] = {"error": describe_error(error)}
            if device.type == "cuda":
                torch.cuda.empty_cache()
    timings = measure_in_turns(working, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.02)
    for name, timing in timings.items():
        results[name] |= {
            "seconds": timing.median,
            "minimum_seconds": timing.minimum,
            "calls": timing.calls,
            "host_seconds": timing.host_seconds,
            "host_bound": timing.host_bound,
        }
    return results


def describe_error(error: Exception) -> str:
    """Its type and the first line of its text."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300]


def network_layout(dtype: torch.dtype) -> torch.memory_format:
    """Of activations: half types are channels-last in a network on a GPU."""
    return torch.contiguous_format if dtype is torch.float32 else torch.channels_last


def in_layout_of(result: Tensor, values: Tensor) -> Tensor:
    """The values as a gradient of `result`, which a network's next layer hands back in the layout of its input."""
    return torch.empty_like(result).copy_(values)


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
    alike the profiler lost some, and no figure is reported, as where it fails.
    """
    nothing = {"kernel_seconds": None, "launches": None, "kernels": []}
    call()
    try:
        events = _profile(call, device)
    except RuntimeError as error:  # of the profiler, as the call itself has just run
        return {**nothing, "profiler_error": describe_error(error)}
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


def _profile(call: Call, device: torch.device) -> list[Any]:
    """The kernels of some calls and of a flush before each, in the order of their start."""
    on_gpu = device.type == "cuda"
    flush = flush_memory(device)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(_PROFILED_CALLS):
            flush.zero_()
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in profiler.events() if event.device_type == wanted and (on_gpu or not event.cpu_parent)]
    return sorted(events, key=lambda event: event.time_range.start)
