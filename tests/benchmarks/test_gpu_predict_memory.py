"""Memory that is predicted: of tensors by hand, and of a training step beside torch's own account of it.

Run as a program, where tensors of the CPU go the way of GPUs, it prints the latter.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.prediction.rows import traced_step
from benchmarks.gpu.prediction.trace import LiveMemory, gpu_stand_in, record
from benchmarks.networks.memory import KeptBytes
from benchmarks.networks.step import NetworkCase, TrainingStep

pytestmark = pytest.mark.usefixtures("compiled_library")
ROOT = Path(__file__).resolve().parents[2]
CASES = (
    NetworkCase("resnet18", batch=2, size=64, classes=10, width=8),
    NetworkCase("resnet18", batch=2, size=64, classes=10, width=8, autocast=True, channels_last=True),
    NetworkCase("resnet18", batch=2, size=64, classes=10, width=8, autocast=True),
)
BLOCK = 512  # of torch's allocator on a GPU


def peak_of(function: object, *sizes: tuple[int, ...]) -> tuple[int, int]:
    """The most bytes at a time, and those that are left with the result."""
    with gpu_stand_in():
        fakes = [torch.empty(size) for size in sizes]
        memory = LiveMemory()
        result, _ = record(lambda: function(*fakes), memory)  # type: ignore[operator]
        left = memory.bytes
        del result
        assert memory.bytes == 0
    return memory.peak, left


def test_tensors_count_while_they_are_there() -> None:
    """In blocks; arguments, views and what is written in place take nothing."""
    assert peak_of(lambda x: x.neg(), (128,)) == (BLOCK, BLOCK)
    assert peak_of(lambda x: x.neg(), (129,)) == (2 * BLOCK, 2 * BLOCK)
    assert peak_of(lambda x: x.neg().exp().sin(), (128,)) == (2 * BLOCK, BLOCK)  # a result and its argument
    assert peak_of(lambda x: x.neg().neg_().view(2, 64).t()[0], (128,)) == (BLOCK, BLOCK)
    assert peak_of(lambda x: x.add_(1).view(-1), (128,)) == (0, 0)
    assert peak_of(lambda x: (x.neg(), x.exp()), (128,)) == (2 * BLOCK, 2 * BLOCK)


def test_autograd_keeps_what_the_way_back_needs() -> None:
    def forward_backward(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(x.exp().sin().sum(), x)
        return grad

    # exp's result, the sum and its gradient; cos and the product with it. sin's result is gone.
    assert peak_of(forward_backward, (128,)) == (5 * BLOCK, BLOCK)


@pytest.fixture(scope="module")
def of_torch() -> list[list[int]]:
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("with other instructions the convolutions of the CPU have larger buffers")
    instructions = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}  # newer ones: of half types, too
    environment = {**os.environ, **instructions, "CROSSD_CONVOLUTION_BRANCH": "gpu", "PYTHONPATH": str(ROOT)}
    environment.pop("CROSSD_CONVOLUTION_METHOD", None)
    process = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    found: list[list[int]] = json.loads(process.stdout.splitlines()[-1])
    return found


# Channels-last half types go in tiles, for which the CPU has a stand-in.
STEPS = [(CASES[0], "plain"), (CASES[0], "fused"), (CASES[0], "expansion"), (CASES[1], "plain"), (CASES[2], "fused")]


@pytest.mark.parametrize("place", range(len(STEPS)), ids=[f"{case.label} {variant}" for case, variant in STEPS])
def test_a_step_takes_what_torch_counts(place: int, of_torch: list[list[int]]) -> None:
    """Of the CPU, whose kernels have buffers of their own.

    What autograd was given and has dropped since is counted there where nothing took its place: of the expansion's many
    tensors not the same from run to run.
    """
    traced = traced_step(*STEPS[place])
    peak, kept = of_torch[place]
    assert traced.peak_bytes == pytest.approx(peak, rel=0.1)
    if STEPS[place][1] != "expansion":
        assert traced.kept_bytes == pytest.approx(kept, rel=0.1)


def measured(case: NetworkCase, variant: str) -> tuple[int, int]:
    step = TrainingStep(case, variant, torch.device("cpu"), seed=0)
    step()
    with KeptBytes(step.model) as kept, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes)), kept.total


if __name__ == "__main__":
    print(json.dumps([measured(case, variant) for case, variant in STEPS]))
