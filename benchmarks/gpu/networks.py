"""Training steps of whole networks on the GPU: plain convolutions, Cross-D layers, and those by the expansion."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.parts import Settings
from benchmarks.network_breakdown import breakdown
from benchmarks.network_memory import step_memory
from benchmarks.network_step import NetworkCase, TrainingStep
from benchmarks.timing import measure_in_turns

_VARIANTS = ("plain", "fused", "expansion")
_CASES = (
    NetworkCase("resnet18", batch=32, autocast=True, channels_last=True),
    NetworkCase("resnet50", batch=32, autocast=True, channels_last=True),
    NetworkCase("resnet18", batch=32),
)
_DRY_RUN_CASES = (NetworkCase("resnet18", batch=2, size=32, classes=10, width=4, channels_last=True),)


def networks(settings: Settings) -> dict[str, Any]:
    """One row for each network; left out is one whose turn comes after half of the time, or without memory."""
    device = torch.device(settings.device)
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    left_out = []
    for case in _DRY_RUN_CASES if settings.dry_run else _CASES:
        if time.monotonic() - start > settings.seconds / 2:
            left_out.append(case.label)
            continue
        try:
            rows.append(_measure_network(case, device, settings))
        except torch.OutOfMemoryError:
            left_out.append(f"{case.label}: out of memory")
            torch.cuda.empty_cache()
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


def _measure_network(case: NetworkCase, device: torch.device, settings: Settings) -> dict[str, Any]:
    rounds, budget = (1, 0.0) if settings.dry_run else (5, settings.seconds / 8)
    with torch.backends.cudnn.flags(benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32):
        steps = {variant: TrainingStep(case, variant, device, seed=0) for variant in _VARIANTS}
        timings = measure_in_turns(
            steps, device, rounds=rounds, seconds_budget=budget, seconds_per_turn=0.2, maximum_calls_per_turn=5
        )
        parts = {variant: breakdown(steps[variant], steps=1) for variant in ("plain", "fused")}
        del steps
        # On a CPU each would be measured in a process of its own.
        memory = {variant: step_memory(case, variant, device) for variant in _VARIANTS if device.type == "cuda"}
    return {
        "network": case.label,
        "variants": {
            variant: {
                "seconds": timing.median,
                "minimum_seconds": timing.minimum,
                "steps": timing.calls,
                **memory.get(variant, {"peak_bytes": None, "kept_bytes": None}),
                "breakdown": parts.get(variant),
            }
            for variant, timing in timings.items()
        },
    }
