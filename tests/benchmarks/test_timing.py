"""The clocks of the benchmarks, on a simulated GPU; and that cuDNN is told what it is to do, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from benchmarks import timing
from benchmarks.gpu.measurements import convolutions, networks, operators
from benchmarks.gpu.parts import Settings
from benchmarks.networks import benchmark
from benchmarks.networks.step import NetworkCase
from benchmarks.timing import Timing, cudnn_benchmark, measure_in_turns

CUDA = torch.device("cuda")
FLUSH_SECONDS, CYCLES_PER_SECOND = 6e-5, 1.5e9


class Gpu:
    """Does its work in order, none before it is given: `host` is the host's time, `free` when the GPU is done."""

    def __init__(self) -> None:
        self.host, self.free = 0.0, 0.0
        self.log: list[str] = []

    def queue(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.free = max(self.free, self.host) + seconds

    def synchronize(self, device: object = None) -> None:
        self.host = max(self.host, self.free)

    def zero_(self) -> None:
        self.queue("flush", FLUSH_SECONDS)

    def call(self, host_seconds: float, seconds: float) -> None:
        """Two kernels, each queued when the host has spent half of its time."""
        for _ in range(2):
            self.host += host_seconds / 2
            self.queue("kernel", seconds / 2)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.time = gpu, 0.0

    def record(self) -> None:
        self.gpu.queue("event", 0.0)
        self.time = self.gpu.free

    def query(self) -> bool:
        return self.time <= self.gpu.host

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """In place of a CUDA device."""
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(gpu))
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: gpu.queue("sleep", cycles / CYCLES_PER_SECOND))
    monkeypatch.setattr(timing, "flush_memory", lambda device: gpu)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: gpu.host))
    return gpu


def measure(call: Callable[[], object], *, consecutive: bool = False) -> Timing:
    return measure_in_turns({"call": call}, CUDA, rounds=3, maximum_calls_per_turn=4, consecutive=consecutive)["call"]


@pytest.mark.parametrize("host_seconds", [1e-6, 1e-4, 1e-3, 0.03])
@pytest.mark.parametrize("seconds", [1e-5, 2e-3])
def test_a_call_is_measured_as_long_as_the_gpu_takes(gpu: Gpu, host_seconds: float, seconds: float) -> None:
    found = measure(lambda: gpu.call(host_seconds, seconds))
    assert (found.median, found.minimum) == (pytest.approx(seconds), pytest.approx(seconds))
    assert found.host_seconds == pytest.approx(host_seconds)
    assert not found.host_bound


def test_the_gpu_is_kept_busy_before_the_first_event(gpu: Gpu) -> None:
    found = measure(lambda: gpu.call(1e-3, 1e-5))
    measured = ["flush", "sleep", "event", "kernel", "kernel", "event"]
    beginning = ["kernel", "kernel"] * 4  # to warm up, and three times for the host's time
    assert gpu.log == beginning + measured * (1 + found.calls)


def test_a_host_that_becomes_slower_is_given_more_time(gpu: Gpu) -> None:
    calls = iter(range(10**6))
    found = measure(lambda: gpu.call(1e-4 if next(calls) < 6 else 2e-3, 1e-5))
    assert (found.median, found.minimum) == (pytest.approx(1e-5), pytest.approx(1e-5))
    assert not found.host_bound


def test_a_call_that_waits_for_the_gpu_is_told_apart(gpu: Gpu) -> None:
    def call() -> None:
        gpu.call(1e-4, 1e-5)
        gpu.synchronize()
        gpu.call(1e-4, 1e-5)

    found = measure(call)
    assert found.host_bound
    assert found.median > 1e-4


@pytest.mark.parametrize(("host_seconds", "seconds"), [(1e-3, 2e-5), (1e-4, 2e-3)])
def test_consecutive_calls_take_the_longer_of_the_two_times(gpu: Gpu, host_seconds: float, seconds: float) -> None:
    found = measure(lambda: gpu.call(host_seconds, seconds), consecutive=True)
    assert found.median == pytest.approx(
        max(host_seconds, seconds), rel=0.3
    )  # the first and the last alone overlap less
    assert found.host_seconds == pytest.approx(host_seconds)
    assert not {"flush", "sleep"} & set(gpu.log)


def flags() -> dict[str, object]:
    names = ("enabled", "benchmark", "deterministic", "allow_tf32", "fp32_precision")
    return {name: getattr(torch.backends.cudnn, name) for name in names}


@pytest.fixture(params=[False, True], ids=["defaults", "other flags"])
def flags_before(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    if request.param:
        cudnn.deterministic, cudnn.allow_tf32 = True, False
    yield flags()
    cudnn.deterministic, cudnn.allow_tf32 = before


@pytest.mark.parametrize("benchmark", [False, True])
def test_cudnn_chooses_by_measurement_and_stays_as_it_is_otherwise(
    flags_before: dict[str, object], benchmark: bool
) -> None:
    with cudnn_benchmark(benchmark):
        assert flags() == {**flags_before, "benchmark": benchmark}
        with pytest.raises(KeyError), cudnn_benchmark(not benchmark):
            raise KeyError
        assert flags() == {**flags_before, "benchmark": benchmark}
    assert flags() == flags_before


@pytest.mark.parametrize("part", ["networks", "convolutions", "operators", "network_benchmark"])
def test_nothing_is_measured_without_cudnn(
    part: str, flags_before: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks as training scripts run them, convolutions with cuDNN's choice and without."""
    seen = []

    def noted(candidates: dict[str, object], *_: object, **__: object) -> dict[str, object]:
        seen.append(flags())
        return {name: Timing(1.0, 1.0, 1) for name in candidates}

    for module in (networks, convolutions, benchmark):
        monkeypatch.setattr(module, "measure_in_turns", noted)
    monkeypatch.setattr(operators, "measure", lambda calls, *_, **__: {"candidates": noted(calls)})
    settings = Settings("cpu", True, 100.0, None, lambda result: None)
    if part == "network_benchmark":
        monkeypatch.setattr(benchmark, "step_memory", lambda *_: {})
        case = NetworkCase("resnet18", batch=2, size=32, classes=10, width=2)
        runs = [benchmark.NetworkRun(case, ("plain", "fused"), ())]
        benchmark.benchmark_networks(runs, torch.device("cpu"), rounds=1, seed=0, begin=lambda _: None)
    else:
        run = {"networks": networks.networks, "convolutions": convolutions.convolutions}.get(part, operators.operators)
        assert run(settings)["rows"]
    choices = {True} if part.startswith("network") else {False, True}
    assert {each["benchmark"] for each in seen} == choices
    assert all({**each, "benchmark": False} == flags_before for each in seen)
    assert flags() == flags_before
    assert flags_before["enabled"] is True
