"""Where the time of a training step goes, by torch's profiler.

Ranges are put around the layers, and within a Cross-D layer around the convolution that follows its head. An operator
counts for the part whose range it runs in; in the backward pass for the part that created its autograd node, which
the node's sequence number tells, unless another node runs it, as the recomputed head's does, and counts for both; and
the operators of crossd_ops count for their own part wherever they run, so weights that are built anew in the backward
pass count as build. The time of an operator is its own: without the operators that it calls, on a GPU that of the
kernels it launched. The profiler makes a step longer, small operators most.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import crossd_ops
from benchmarks.networks.step import FORWARD_RANGE, OPTIMIZER_RANGE, TrainingStep

PARTS = ("head", "build", "convolution", "rest")
_RANGES = {f"network/{part}": part for part in PARTS}
_OPERATORS = {
    "crossd_ops::fourier_shift": "build",
    "crossd_ops::rotation_head": "head",
    "crossd_ops::predict_shift": "head",
    "crossd_ops::convolution": "convolution",  # of a layer that is one step of autograd, too
}
_NODE = "autograd::engine::evaluate_function"
_DISPATCHED = ("aten::", "crossd_ops::")
_LARGEST_OPERATORS = 12


def breakdown(step: TrainingStep, steps: int) -> dict[str, Any]:
    """Milliseconds of each part for a step, its most expensive operators, and launches, as plain JSON values."""
    activities = [ProfilerActivity.CPU]
    if step.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _ranges(step.model):
        step()
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                step()
            if step.device.type == "cuda":
                torch.cuda.synchronize(step.device)
    account = _Account(profiler.events(), on_gpu=step.device.type == "cuda")
    operators = [
        {"part": part, "operator": name, "milliseconds": microseconds / 1e3 / steps}
        for (part, name), microseconds in account.operators.most_common(_LARGEST_OPERATORS)
    ]
    return {
        "milliseconds": {part: microseconds / 1e3 / steps for part, microseconds in account.parts.items()},
        "largest_operators": operators,
        "launches": round(account.launches / steps),
    }


@contextlib.contextmanager
def _ranges(model: nn.Module) -> Iterator[None]:
    """Profiler ranges around the parts of every layer, inside the `with` block."""
    entered: list[record_function] = []
    handles = []
    for module, part in _labelled_layers(model):
        handles.append(module.register_forward_pre_hook(_enter(f"network/{part}", entered)))
        handles.append(module.register_forward_hook(lambda *_: entered.pop().__exit__(None, None, None)))
    convolve = crossd_ops.layers.conv2d.crossd_conv2d

    def convolve_in_range(*arguments: Any, **options: Any) -> torch.Tensor:
        with record_function("network/convolution"):
            return convolve(*arguments, **options)

    try:
        with mock.patch.object(crossd_ops.layers.conv2d, "crossd_conv2d", convolve_in_range):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(name: str, entered: list[record_function]) -> Callable[..., None]:
    def enter(*_: Any) -> None:
        entered.append(record_function(name).__enter__())

    return enter


def _labelled_layers(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The convolutions, with what runs in them outside of `crossd_conv2d`: a head, unless kernels have one element."""
    for child in module.children():
        if isinstance(child, crossd_ops.CrossDConv2d):
            yield child, "convolution" if set(child.weights_3d.shape[2:]) == {1} else "head"
        elif isinstance(child, nn.Conv2d):
            yield child, "convolution"
        else:
            yield from _labelled_layers(child)


class _Account:
    """Sums over the events of a profile: microseconds of each part and of each operator in it, and launches."""

    def __init__(self, events: Any, *, on_gpu: bool) -> None:
        self.parts: Counter[str] = Counter()
        self.operators: Counter[tuple[str, str]] = Counter()
        self.launches = 0
        self._on_gpu = on_gpu
        self._part_of_node: dict[int, tuple[float, str]] = {}
        host_events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
        roots = [event for event in host_events if event.cpu_parent is None]
        for event in roots:
            if event.name == FORWARD_RANGE:
                self._find_nodes(event, "rest")
        for event in roots:
            self._add(event, "rest", "backward", dispatched=False, in_node=False)

    def _find_nodes(self, event: Any, part: str) -> None:
        """Events that create no node bear the number of the next one too: the last event to start has created it."""
        part = self._part(event, part)
        if event.sequence_nr >= 0:
            start = event.time_range.start
            if start >= self._part_of_node.get(event.sequence_nr, (start, part))[0]:
                self._part_of_node[event.sequence_nr] = start, part
        for child in event.cpu_children:
            self._find_nodes(child, part)

    def _add(self, event: Any, part: str, phase: str, *, dispatched: bool, in_node: bool) -> None:
        if event.name == FORWARD_RANGE:
            phase = "forward"
        elif event.name == OPTIMIZER_RANGE:
            phase = "optimizer"
        is_node = event.name.startswith(_NODE)
        if is_node and not in_node:
            part = self._part_of_node.get(event.sequence_nr, (0.0, "rest"))[1]
        part = self._part(event, part)
        title = "optimizer" if phase == "optimizer" else f"{part} {phase}"
        microseconds = self._own_time(event)
        self.parts[title] += microseconds
        is_range = event.name.startswith("network/")
        self.operators[title, "between operators" if is_range else event.name] += microseconds
        is_operator = event.name.startswith(_DISPATCHED)
        self.launches += len(_kernels(event)) if self._on_gpu else is_operator and not dispatched
        for child in event.cpu_children:
            self._add(child, part, phase, dispatched=dispatched or is_operator, in_node=in_node or is_node)

    def _own_time(self, event: Any) -> float:
        if self._on_gpu:
            return sum(kernel.duration for kernel in _kernels(event))
        return event.self_cpu_time_total

    @staticmethod
    def _part(event: Any, part: str) -> str:
        for prefix, own_part in _OPERATORS.items():
            if event.name.startswith(prefix):
                return own_part
        return _RANGES.get(event.name, part)


def _kernels(event: Any) -> list[Any]:
    """Kernels that the event itself launched; a range's are the spans of the range on the GPU."""
    is_range = event.name.startswith(("network/", "Optimizer."))
    return [] if is_range else event.kernels
