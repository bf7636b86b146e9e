"""Training steps of whole networks on the GPU: plain convolutions, Cross-D layers, and those by the expansion."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.measurements.measure import describe_error
from benchmarks.gpu.parts import Settings
from benchmarks.networks.breakdown import breakdown
from benchmarks.networks.memory import step_memory
from benchmarks.networks.step import NetworkCase, TrainingStep
from benchmarks.timing import Timing, cudnn_benchmark, measure_in_turns

VARIANTS = ("plain", "fused", "expansion")
_BROKEN_DOWN = ("plain", "fused")
CASES = (
    NetworkCase("resnet18", batch=32, autocast=True, channels_last=True),
    NetworkCase("resnet50", batch=32, autocast=True, channels_last=True),
    NetworkCase("resnet18", batch=32),
)
# No narrower: torch 2.13 writes beyond its memory on CPUs with AVX2, in the gradient of the weight of a channels-last
# convolution of 1x1 with 4 channels (oneDNN's jit_1x1).
DRY_RUN_CASES = (NetworkCase("resnet18", batch=2, size=32, classes=10, width=8, channels_last=True),)


def networks(settings: Settings) -> dict[str, Any]:
    """One row for each network; left out is one whose turn comes after half of the time."""
    device = torch.device(settings.device)
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    left_out = []
    for case in DRY_RUN_CASES if settings.dry_run else CASES:
        if time.monotonic() - start > settings.seconds / 2:
            left_out.append(case.label)
            continue
        rows.append(_measure_network(case, device, settings))
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


def _measure_network(case: NetworkCase, device: torch.device, settings: Settings) -> dict[str, Any]:
    """A variant that cannot run here, for lack of memory above all, has an error in place of its figures."""
    rounds, budget = (1, 0.0) if settings.dry_run else (5, settings.seconds / 8)
    with cudnn_benchmark(True):
        steps, variants = _make_steps(case, device)
        timings = measure_in_turns(
            steps,
            device,
            rounds=rounds,
            seconds_budget=budget,
            seconds_per_turn=0.2,
            maximum_calls_per_turn=5,
            consecutive=True,
        )
        for variant, timing in timings.items():
            variants[variant] = _figures(timing) | _breakdown(steps[variant], variant)
        steps.clear()  # what memory they hold would not be counted
        for variant in timings:
            # On a CPU each would be measured in a process of its own.
            nothing = {"peak_bytes": None, "kept_bytes": None}
            variants[variant] |= step_memory(case, variant, device) if device.type == "cuda" else nothing
    return {"network": case.label, "variants": {variant: variants[variant] for variant in VARIANTS}}


def _make_steps(case: NetworkCase, device: torch.device) -> tuple[dict[str, TrainingStep], dict[str, dict[str, Any]]]:
    """The variants that make a step, and the errors of those that do not."""
    steps: dict[str, TrainingStep] = {}
    errors: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        try:
            step = TrainingStep(case, variant, device, seed=0)
            step()
            steps[variant] = step
        except RuntimeError as error:
            errors[variant] = {"error": describe_error(error)}
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return steps, errors


def _figures(timing: Timing) -> dict[str, Any]:
    return {
        "seconds": timing.median,
        "minimum_seconds": timing.minimum,
        "steps": timing.calls,
        "host_seconds": timing.host_seconds,
    }


def _breakdown(step: TrainingStep, variant: str) -> dict[str, Any]:
    """Where the time goes, and its sum: on a GPU the time in kernels. Without, where the profiler fails."""
    nothing = {"kernel_seconds": None, "breakdown": None}
    if variant not in _BROKEN_DOWN:
        return nothing
    try:
        found = breakdown(step, steps=1)
    except RuntimeError as error:
        return {**nothing, "breakdown_error": describe_error(error)}
    seconds = sum(found["milliseconds"].values()) / 1e3
    return {"kernel_seconds": seconds if step.device.type == "cuda" else None, "breakdown": found}
