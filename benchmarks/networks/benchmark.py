"""Whole networks: a training step with Cross-D layers against plain ones and against the torch.fft expansion.

Variants take turns within one run and are compared by their medians. The expansion takes many times longer than the
rest: on a CPU the default run makes one step of it, `whole` as many rounds as of the others, and adds further networks
and torch.compile.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.networks.breakdown import breakdown
from benchmarks.networks.memory import step_memory
from benchmarks.networks.step import NetworkCase, TrainingStep
from benchmarks.timing import Timing, cudnn_benchmark, measure_in_turns, summarize

_BROKEN_DOWN = ("plain", "fused")
_WARM_UP_BATCH = 2
_ORGANS = 14  # classes of a pixel, as in BTCV's segmentation of the abdomen; ImageNet's 1000 would outweigh the network


@dataclass(frozen=True)
class NetworkRun:
    """One row group of the table: a network and the variants of it that are measured."""

    case: NetworkCase
    variants: tuple[str, ...] = ("plain", "fused")
    measured_once: tuple[str, ...] = ("expansion",)

    @property
    def parts(self) -> int:
        """How often `benchmark_networks` announces something for it: times, breakdown, then memory of each variant."""
        return 2 + len(self.measured_once) + sum(map(_has_memory, self.variants + self.measured_once))


def _has_memory(variant: str) -> bool:
    """Not what is compiled: on a CPU it would have to be compiled once more, in the measuring process."""
    return variant != "compiled_expansion"


def network_runs(device: torch.device, *, quick: bool, whole: bool) -> list[NetworkRun]:
    """What the benchmark runs: `quick` is for tests, `whole` takes many minutes."""
    if quick:
        return [NetworkRun(NetworkCase("resnet18", batch=2, size=32, classes=10, width=4))]
    first = NetworkCase("resnet18", batch=4)
    gpu = NetworkCase("resnet18", batch=32, autocast=True, channels_last=True)
    cases = [first, gpu] if device.type == "cuda" else [first]
    if not whole:
        if device.type == "cuda":
            return [NetworkRun(case, ("plain", "fused", "expansion"), ()) for case in cases]
        return [NetworkRun(case) for case in cases]
    resnet50 = [replace(case, model="resnet50") for case in cases]
    unet = [replace(case, model="unet", classes=_ORGANS) for case in cases]
    cases += [replace(first, batch=8), replace(first, autocast=True), *resnet50, *unet]
    variants = ("plain", "fused", "expansion")
    # Compiling takes minutes.
    compiled = [gpu if device.type == "cuda" else first]
    return [NetworkRun(case, (*variants, *(["compiled_expansion"] if case in compiled else [])), ()) for case in cases]


def benchmark_networks(
    runs: list[NetworkRun], device: torch.device, *, rounds: int, seed: int, begin: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Times, breakdown, launches and memory of each network's variants, as JSON values; `begin` is told what comes."""
    return [_benchmark_network(run, device, rounds, seed, begin) for run in runs]


def _benchmark_network(
    run: NetworkRun, device: torch.device, rounds: int, seed: int, begin: Callable[[str], None]
) -> dict[str, Any]:
    label = run.case.label
    with cudnn_benchmark(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch._inductor")  # torch.compile's
        begin(f"{label}: {', '.join(run.variants)}")
        steps = {variant: TrainingStep(run.case, variant, device, seed) for variant in run.variants}
        timings = measure_in_turns(
            steps,
            device,
            rounds=rounds,
            seconds_per_turn=0.5,
            seconds_budget=120.0,
            maximum_calls_per_turn=5,
            consecutive=True,
        )
        begin(f"{label}: breakdown")
        breakdowns = _breakdowns({variant: steps[variant] for variant in _BROKEN_DOWN}, rounds)
        del steps
        for variant in run.measured_once:
            begin(f"{label}: {variant}")
            timings[variant] = _time_once(run.case, variant, device, seed)
    memory = {}
    for variant in timings:
        if _has_memory(variant):
            begin(f"{label}: memory, {variant}")
            memory[variant] = step_memory(run.case, variant, device)
    plain = timings["plain"].median
    return {
        "network": label,
        "model": run.case.model,
        "variants": {
            variant: {
                "median_seconds": timing.median,
                "minimum_seconds": timing.minimum,
                "steps": timing.calls,
                "times_plain": timing.median / plain,
                **memory.get(variant, {"peak_bytes": None, "kept_bytes": None}),
                "breakdown": breakdowns.get(variant),
            }
            for variant, timing in timings.items()
        },
    }


def _breakdowns(steps: dict[str, TrainingStep], rounds: int) -> dict[str, dict[str, Any]]:
    """In turns, as a machine's clock may change meanwhile; of each variant the one whose sum is the median."""
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in steps}
    for _ in range(rounds):
        for variant, step in steps.items():
            found[variant].append(breakdown(step, steps=1))
    return {
        variant: sorted(each, key=lambda one: sum(one["milliseconds"].values()))[rounds // 2]
        for variant, each in found.items()
    }


def _time_once(case: NetworkCase, variant: str, device: torch.device, seed: int) -> Timing:
    """One step on the CPU, after a smaller one that meets what happens only the first time."""
    step = TrainingStep(case, variant, device, seed)
    step.set_batch(_WARM_UP_BATCH)
    step()
    step.set_batch(case.batch)
    start = time.perf_counter()
    step()
    return summarize([time.perf_counter() - start])
