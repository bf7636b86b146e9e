"""The networks of the benchmark are torchvision's in size and names, and the benchmark counts what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import crossd_ops
from benchmarks.models import CONVOLUTIONS, MODELS, build_model, use_channels_last
from benchmarks.networks.benchmark import NetworkRun, _breakdowns, benchmark_networks, network_runs
from benchmarks.networks.breakdown import breakdown
from benchmarks.networks.memory import KeptBytes, step_memory
from benchmarks.networks.report import network_sections
from benchmarks.networks.step import NetworkCase, TrainingStep

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SMALL = NetworkCase("resnet18", batch=2, size=32, classes=10, width=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other at every small operator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_plain_networks_have_the_size_of_torchvisions(name: str, expected: int) -> None:
    assert parameters(build_model(name, CONVOLUTIONS["plain"], classes=1000)) == expected


def test_names_are_those_of_published_checkpoints() -> None:
    plain = build_model("resnet18", CONVOLUTIONS["plain"], classes=1000).state_dict()
    assert len(plain) == 122
    assert {"conv1.weight", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= plain.keys()
    assert plain["layer4.1.bn2.running_var"].shape == (512,)
    crossd = build_model("resnet18", CONVOLUTIONS["crossd"], classes=1000).state_dict()
    assert crossd["conv1.weights_3d"].shape == (64, 3, 7, 7, 7)
    assert crossd["layer2.0.downsample.0.weights_3d"].shape == (128, 64, 1, 1, 1)
    assert crossd["layer3.0.conv1.rotation_params.0.weight"].shape == (16, 128, 1, 1)
    bottleneck = build_model("resnet50", CONVOLUTIONS["plain"], classes=1000).state_dict()
    assert len(bottleneck) == 320
    assert bottleneck["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert bottleneck["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_every_convolution_comes_from_the_factory(name: str, conv: str) -> None:
    model = build_model(name, CONVOLUTIONS[conv], classes=5, in_channels=1, width=2)
    expected = crossd_ops.CrossDConv2d if conv == "crossd" else nn.Conv2d
    layers = {path for path, module in model.named_modules() if isinstance(module, expected)}
    others = {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not any(path.startswith(f"{layer}.rotation_params") for layer in layers)
    }
    assert len(layers) == {"resnet18": 20, "resnet50": 53, "unet": 19}[name]
    assert others == (set() if conv == "crossd" else layers)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_scores_and_gradients(name: str, conv: str) -> None:
    model = build_model(name, CONVOLUTIONS[conv], classes=5, in_channels=1, width=2)
    use_channels_last(model)
    scores = model(torch.randn(2, 1, 32, 48).contiguous(memory_format=torch.channels_last))
    assert scores.shape == ((2, 5, 32, 48) if name == "unet" else (2, 5))
    scores.square().sum().backward()
    missing = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert missing == []
    with pytest.raises(ValueError, match="model: expected one of resnet18, resnet50, unet, got 'vgg'"):
        build_model("vgg", CONVOLUTIONS[conv], classes=5)


def test_variants_train_the_same_network() -> None:
    losses = {name: TrainingStep(SMALL, name, CPU, seed=3)().item() for name in ("fused", "expansion")}
    # Statistics of two samples multiply rounding differences.
    assert losses["fused"] == pytest.approx(losses["expansion"], rel=1e-3)
    step = TrainingStep(SMALL, "fused", CPU, seed=3)
    first = step().item()
    assert min(step().item() for _ in range(8)) < first
    assert all(parameter.grad is None for parameter in step.model.parameters())


class SlowHead(crossd_ops.CrossDConv2d):
    """A layer whose head takes 20 ms."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().forward(input)


def test_breakdown_finds_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONVOLUTIONS, "crossd", SlowHead)
    slow = breakdown(TrainingStep(SMALL, "fused", CPU, seed=0), steps=1)["milliseconds"]
    # 17 of the 20 layers; the sleep of the others, with kernels of one element, counts as convolution
    assert slow["head forward"] >= 17 * 20 and slow["convolution forward"] >= 3 * 20
    monkeypatch.undo()
    convolve = crossd_ops.layers.conv2d.crossd_conv2d

    def slow_convolution(*arguments: object, **options: object) -> torch.Tensor:
        time.sleep(0.02)
        return convolve(*arguments, **options)

    monkeypatch.setattr(crossd_ops.layers.conv2d, "crossd_conv2d", slow_convolution)
    monkeypatch.setattr(crossd_ops.layers.straight, "fused_type", lambda *_: None)  # head and convolution apart
    step = TrainingStep(SMALL, "fused", CPU, seed=0)
    assert breakdown(step, steps=1)["milliseconds"]["convolution forward"] >= 17 * 20
    assert crossd_ops.layers.conv2d.crossd_conv2d is slow_convolution
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in step.model.modules())


class SlowBackward(torch.autograd.Function):
    """The identity, whose backward pass takes 50 ms."""

    @staticmethod
    def forward(ctx: object, input: torch.Tensor) -> torch.Tensor:
        return input.clone()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return grad


def test_breakdown_follows_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = crossd_ops.layers.conv2d.crossd_conv2d

    def slow_convolution(input: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        return convolve(SlowBackward.apply(input), *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(crossd_ops.layers.conv2d, "crossd_conv2d", slow_convolution)
        patched.setattr(crossd_ops.layers.straight, "fused_type", lambda *_: None)  # head and convolution apart
        parts = breakdown(TrainingStep(SMALL, "fused", CPU, seed=0), steps=1)["milliseconds"]
    # that of the first layer, whose images need no gradient, never runs
    assert parts["convolution backward"] >= 16 * 50
    assert parts["head backward"] + parts["rest backward"] < 16 * 50


def test_breakdown_parts_what_is_one_step_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its operators: head and convolution of a layer, in both directions."""
    if crossd_ops.backend(CPU) != "compiled":
        pytest.skip("the reference has no such step")
    step = TrainingStep(SMALL, "fused", CPU, seed=0)
    monkeypatch.setattr("benchmarks.networks.breakdown._LARGEST_OPERATORS", None)
    parts = {(row["part"], row["operator"]) for row in breakdown(step, steps=1)["largest_operators"]}
    for name, part in (("convolution", "convolution"), ("predict_shift", "head"), ("fourier_shift", "build")):
        wanted = {(f"{part} forward", f"crossd_ops::{name}"), (f"{part} backward", f"crossd_ops::{name}_backward")}
        assert wanted <= parts
        assert {at for at, operator in parts if operator == f"crossd_ops::{name}_backward"} == {f"{part} backward"}


def test_breakdown_counts_a_recomputed_head_as_head(monkeypatch: pytest.MonkeyPatch) -> None:
    rotation_head = crossd_ops.operators.head.rotation_head

    def slow_rotation_head(scores: torch.Tensor, rotation: str) -> torch.Tensor:
        return rotation_head(SlowBackward.apply(scores), rotation)

    monkeypatch.setattr(crossd_ops.operators.head, "rotation_head", slow_rotation_head)
    for module in (crossd_ops.operators.head, crossd_ops.layers.straight):  # the layers of the head run, and run again
        monkeypatch.setattr(module, "fused_type", lambda *_: None)
    parts = breakdown(TrainingStep(SMALL, "fused", CPU, seed=0), steps=1)["milliseconds"]
    assert parts["head backward"] >= 17 * 50
    assert parts["convolution backward"] + parts["rest backward"] < 17 * 50


def test_breakdown_of_plain_and_fused() -> None:
    plain, fused = (breakdown(TrainingStep(SMALL, name, CPU, seed=0), steps=2) for name in ("plain", "fused"))
    both = {"convolution forward", "convolution backward", "rest forward", "rest backward", "optimizer"}
    assert plain["milliseconds"].keys() == both
    own = {"head forward", "head backward", "build forward", "build backward"}
    assert fused["milliseconds"].keys() == both | (own if crossd_ops.backend(CPU) == "compiled" else own - {"build"})
    assert 100 < plain["launches"] < fused["launches"]
    for part in (plain, fused):
        listed = sum(row["milliseconds"] for row in part["largest_operators"])
        assert 0 < listed <= sum(part["milliseconds"].values())


def test_breakdowns_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, turns = iter([5.0, 1.0, 3.0, 2.0, 4.0, 9.0]), []

    def measured(step: str, steps: int) -> dict[str, dict[str, float]]:
        turns.append(step)
        return {"milliseconds": {"rest forward": 0.5, "rest backward": next(sums) - 0.5}}

    monkeypatch.setattr("benchmarks.networks.benchmark.breakdown", measured)
    found = _breakdowns({"plain": "first", "fused": "second"}, rounds=3)
    assert turns == ["first", "second"] * 3
    assert {name: sum(each["milliseconds"].values()) for name, each in found.items()} == {"plain": 4.0, "fused": 2.0}


def test_kept_bytes_count_each_storage_once_and_no_parameter() -> None:
    layer = nn.Linear(8, 4)
    input = torch.randn(16, 8)
    with KeptBytes(layer) as kept:
        hidden = layer(input)
        (hidden * hidden).sum()
    assert kept.total == (16 * 8 + 16 * 4) * 4
    with KeptBytes(layer) as kept, torch.no_grad():
        layer(input)
    assert kept.total == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from Linux' /proc")
def test_memory_of_a_step() -> None:
    case = NetworkCase("resnet18", batch=8, size=64, classes=10, width=16)
    plain, expansion = (step_memory(case, name, CPU) for name in ("plain", "expansion"))
    assert plain["kept_bytes"] < expansion["kept_bytes"]
    if plain["peak_bytes"] is not None:
        gradients = 4 * parameters(build_model("resnet18", CONVOLUTIONS["plain"], classes=10, width=16))
        # Large blocks live between the passes: what is kept, or the gradients that take its place.
        assert plain["peak_bytes"] > max(gradients, 0.7 * plain["kept_bytes"])
        assert plain["peak_bytes"] < expansion["peak_bytes"]


def test_runs_of_each_extent() -> None:
    quick = network_runs(CPU, quick=True, whole=False)
    normal = network_runs(CPU, quick=False, whole=False)
    whole = network_runs(CPU, quick=False, whole=True)
    assert [run.case.size for run in quick] == [32]
    assert [(run.case.label, run.measured_once) for run in normal] == [("resnet18 B=4 224x224", ("expansion",))]
    assert {run.case.model for run in whole} == set(MODELS) and {run.case.batch for run in whole} == {4, 8}
    assert [run.case.autocast for run in whole].count(True) == 1
    assert ["compiled_expansion" in run.variants for run in whole].count(True) == 1
    on_gpu = network_runs(torch.device("cuda"), quick=False, whole=False)
    assert any((run.case.batch, run.case.autocast, run.case.channels_last) == (32, True, True) for run in on_gpu)


def test_every_part_is_announced_and_autocast_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(
        "benchmarks.networks.benchmark.step_memory", lambda *_: {"peak_bytes": None, "kept_bytes": 1_500_000}
    )
    case = NetworkCase("unet", batch=2, size=16, classes=3, width=2, autocast=True, channels_last=True)
    runs = [NetworkRun(case, ("plain", "fused", "expansion"), ())]
    rows = benchmark_networks(runs, CPU, rounds=1, seed=0, begin=begun.append)
    assert len(begun) == runs[0].parts
    assert rows[0]["network"] == "unet B=2 16x16 bf16 channels-last"
    table = network_sections(rows)[0]
    assert table.count("unet B=2 16x16 bf16 channels-last") == 3
    assert table.count("| not known |     1.5 |") == 3


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="reports need matplotlib (the bench extra)",
)
def test_quick_run_writes_everything(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "network", "--out", str(tmp_path)]
    completed = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "results.json", "networks.png"}
    network = json.loads((tmp_path / "results.json").read_text())["network"][0]
    variants = network["variants"]
    assert set(variants) == {"plain", "fused", "expansion"}
    assert variants["plain"]["times_plain"] == 1 and variants["expansion"]["steps"] == 1
    for variant in variants.values():
        assert variant["times_plain"] == variant["median_seconds"] / variants["plain"]["median_seconds"]
        assert variant["kept_bytes"] > 0
    assert "| resnet18 B=2 32x32 |" in completed.stdout
    refused = subprocess.run([*command, "--whole"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "not allowed with argument --quick" in refused.stderr


@pytest.mark.parametrize("error", [None, RuntimeError("stop")])
def test_backend_is_restored_after_a_step(error: Exception | None) -> None:
    step = TrainingStep(SMALL, "expansion", CPU, seed=0)
    if error is not None:
        step.model.fc.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))
    before = crossd_ops.backend(CPU)
    with contextlib.suppress(RuntimeError):
        step()
    assert crossd_ops.backend(CPU) == before
