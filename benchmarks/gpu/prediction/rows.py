"""The rows of a GPU run, predicted: the same calls as the run's own, recorded on fakes, and the time of each launch.

What a part finds has the form that it has in the run's JSON, so one code prints both; figures that are not predicted
(times between events and of the host) are not there.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.gpu.measurements import cases, ceilings, convolutions, networks, operators
from benchmarks.gpu.measurements.case import Case
from benchmarks.gpu.prediction import (  # noqa: F401  they are registered
    own_models,
    tiles_models,
    torch_models,
    whole_head_models,
)
from benchmarks.gpu.prediction.bounds import BASES, Prediction, predict
from benchmarks.gpu.prediction.compiled import fuse_elementwise
from benchmarks.gpu.prediction.convolution_models import shifted_columns  # noqa: F401  they are registered
from benchmarks.gpu.prediction.gpus import GPU
from benchmarks.gpu.prediction.models import AnyLaunch, launches_of
from benchmarks.gpu.prediction.trace import PARTS, Call, LiveMemory, gpu_stand_in, record
from benchmarks.networks.memory import KeptBytes
from benchmarks.networks.step import NetworkCase, TrainingStep
from crossd_ops.inspection.profile import measurement
from crossd_ops.tuning import choice

_CPU = torch.device("cpu")
COMPILED = "compiled expansion"
VARIANTS = networks.VARIANTS
# Those of the run, and the other layouts and types of ResNet-18.
STEPS = (
    *networks.CASES,
    NetworkCase("resnet18", batch=32, autocast=True),
    NetworkCase("resnet18", batch=32, channels_last=True),
)

Launches = tuple[tuple[AnyLaunch, str], ...]  # in order, with the part of a network that each belongs to
Result = dict[str, Any]


class Traced(NamedTuple):
    """What a call launches, and its memory in bytes: the most at a time, and what autograd keeps for the way back."""

    launches: Launches
    peak_bytes: int | None
    kept_bytes: int | None = None


def launches_in(calls: Iterable[Call]) -> Launches:
    """Of recorded operators."""
    return tuple((launch, call.part) for call in calls for launch in launches_of(call))


def figures(launches: Launches, gpu: GPU) -> Result:
    """What a candidate of a row is told by, where it is predicted."""
    predicted = [predict(launch, gpu, part) for launch, part in launches]
    return {
        "kernel_seconds": sum(one.seconds for one in predicted),
        "launches": len(predicted),
        "moved_bytes": sum(one.moved for one in predicted),
        "bounds": shares(predicted, lambda one: one.holds),
        "bases": shares(predicted, lambda one: one.basis),
        "predicted": predicted,
    }


def shares(predicted: Iterable[Prediction], name: Callable[[Prediction], str]) -> dict[str, float]:
    """Of the time, by name, the largest first."""
    seconds: Counter[str] = Counter()
    for one in predicted:
        seconds[name(one)] += one.seconds  # type: ignore[assignment]
    total = sum(seconds.values())
    return {what: value / total for what, value in seconds.most_common()}


def bandwidth(gpu: GPU, *, dry_run: bool = False) -> Result:
    """The part of this name, see measurements/ceilings.py."""
    sizes = ceilings.sizes(dry_run)
    with gpu_stand_in():
        traced = {name: launches_in(record(call)[1]) for name, call in ceilings.candidates(sizes, _CPU).items()}
    seconds = {name: figures(launches, gpu)["kernel_seconds"] for name, launches in traced.items()}
    return ceilings.rates(sizes, seconds)


@functools.cache
def _traced_cases(compiled: bool, dry_run: bool) -> list[tuple[Result, dict[str, Traced]]]:
    """Each row without times, and its candidates."""
    rows = []
    with gpu_stand_in():
        for make in (cases.compiled_cases if compiled else cases.all_cases)(_CPU, dry_run=dry_run):
            make.keywords.pop("compiler", None)  # what it would compile is recorded
            case = make()
            found = _traced_candidates(case)
            if compiled:
                forward, both = ((fuse_elementwise(calls), None) for calls, _ in found["expansion"])
                found = {"fused": found["fused"], COMPILED: (forward, both)}
            for place, direction in enumerate(("forward", "forward_backward")):
                traced = {name: Traced(launches_in(one[place][0]), one[place][1]) for name, one in found.items()}
                rows.append((operators.row_of(case, direction, None, {}), traced))
    return rows


_Recorded = tuple[list[Call], int | None]  # and the most bytes at a time


def _traced_candidates(case: Case) -> dict[str, tuple[_Recorded, _Recorded]]:
    """Forward, and forward and backward, of each."""
    found: dict[str, tuple[_Recorded, _Recorded]] = {}
    for name, call in case.candidates.items():
        memory = LiveMemory()
        result, forward = record(call, memory)
        of_forward = memory.peak
        inputs = case.other_work.get(name, case.inputs)
        _, backward = record(functools.partial(torch.autograd.grad, result, inputs, torch.empty_like(result)), memory)
        found[name] = (forward, of_forward), ([*forward, *backward], memory.peak)
    return found


def _told(traced: Traced, gpu: GPU) -> Result:
    return {**figures(traced.launches, gpu), "peak_bytes": traced.peak_bytes, "kept_bytes": traced.kept_bytes}


def _cases(gpu: GPU, compiled: bool, dry_run: bool) -> Result:
    return {
        "rows": [
            {**row, "candidates": {name: _told(traced, gpu) for name, traced in candidates.items()}}
            for row, candidates in _traced_cases(compiled, dry_run)
        ]
    }


def operator_rows(gpu: GPU, *, dry_run: bool = False) -> Result:
    """The part "operators"."""
    return _cases(gpu, False, dry_run)


def compiled_rows(gpu: GPU, *, dry_run: bool = False) -> Result:
    """The part "compiled"."""
    return _cases(gpu, True, dry_run)


@functools.cache
def traced_step(case: NetworkCase, variant: str) -> Traced:
    """Of a step that is not the first, in which the optimizer makes its state."""
    with gpu_stand_in():
        step = TrainingStep(case, variant, _CPU, seed=0)
        for parameter in step.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        step.optimizer.step()
        step.optimizer.zero_grad()
        memory = LiveMemory()
        with KeptBytes(step.model) as kept:
            _, calls = record(step, memory)
        return Traced(launches_in(calls), memory.peak, kept.total)


def network_rows(gpu: GPU, *, dry_run: bool = False) -> Result:
    """The part "networks"."""
    rows = []
    for case in networks.DRY_RUN_CASES if dry_run else STEPS:
        variants = {}
        for variant in VARIANTS:
            found = _told(traced_step(case, variant), gpu)
            milliseconds = dict.fromkeys(PARTS, 0.0)
            for one in found["predicted"]:
                milliseconds[one.part] += one.seconds * 1e3
            breakdown = {"milliseconds": milliseconds, "launches": found["launches"]}
            variants[variant] = {**found, "breakdown": breakdown}
        rows.append({"network": case.label, "variants": variants})
    return {"rows": rows}


@functools.cache
def _traced_convolutions(dry_run: bool) -> list[tuple[Result, dict[str, Launches]]]:
    rows = []
    for problem, names in convolutions.problems(dry_run).items():
        directions = measurement.counted(problem, [], on_gpu=True)
        found = {}
        with gpu_stand_in():
            calls = measurement.calls_of(problem, _CPU)
            for one in directions:
                way, both = one.direction, calls[one.direction]
                found[f"plain {way}"] = launches_in(record(both.plain)[1])
                for method in one.choice.possible:
                    found[f"{method} {way}"] = _launches_by(one, method, both.ours)
        chosen = {one.direction: one.choice.method for one in directions}
        rows.append(({**convolutions.row_of(problem, names), "chosen": chosen}, found))
    return rows


def _launches_by(direction: measurement.Row, method: str, call: Callable[[], object]) -> Launches:
    try:
        with _disable_current_modes():  # it is no work of a GPU's
            choice.set_method(direction.choice.key, method)
        return launches_in(record(call)[1])
    finally:
        with _disable_current_modes():
            choice.set_method(direction.choice.key, None)


def convolution_rows(gpu: GPU, *, dry_run: bool = False) -> Result:
    """The part "convolutions"; cuDNN's choice by measurement makes no difference to a prediction."""
    rows = []
    for benchmark, (row, found) in itertools.product((False, True), _traced_convolutions(dry_run)):
        seconds = {name: figures(launches, gpu)["kernel_seconds"] for name, launches in found.items()}
        rows.append({**row, "seconds": seconds, "host_bound": [], "cudnn_benchmark": benchmark})
    return {"rows": rows}


PREDICTED: dict[str, Callable[..., Result]] = {
    "bandwidth": bandwidth,
    "operators": operator_rows,
    "networks": network_rows,
    "convolutions": convolution_rows,
    "compiled": compiled_rows,
}


def predicted_results(gpu: GPU, parts: Iterable[str] = tuple(PREDICTED), *, dry_run: bool = False) -> dict[str, Result]:
    """By part of the run that measures what it finds; `dry_run`: of the tiny sizes.

    Raises:
        RuntimeError: the library is not built, of whose operators sizes are asked.
        UnknownOperator: one has no model.
    """
    return {part: PREDICTED[part](gpu, dry_run=dry_run) for part in parts}


def basis_note(bases: dict[str, float]) -> str:
    """What the time rests on."""
    return ", ".join(f"{bases[name]:.0%} {name}" for name in BASES if name in bases)
