"""Predicted times: each bound by hand, the rows those of the run, and measured beside predicted in the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import beside, plots
from benchmarks.gpu.prediction import rows
from benchmarks.gpu.prediction.assumptions import LAUNCH_SECONDS, WARP_PRODUCTS_RATE
from benchmarks.gpu.prediction.bounds import Prediction, predict
from benchmarks.gpu.prediction.gpus import GPU, GPUS, gpu_named
from benchmarks.gpu.prediction.launches import Launch, ShiftProblem, backward_launches, forward_launches
from benchmarks.gpu.report import format_report, write_report

# 10 multiprocessors of 1 GHz, for figures that can be done in the head.
SMALL = GPU("small", "sm_90", 10, 1e9, 1e9, 10.0, 1e12, {"float32": 64, "special": 16}, "nowhere")
WARPS = 20 * 2


def predicted(loops: dict[str, dict[str, int]], wavefronts: dict[str, float] | None = None, **more: Any) -> Prediction:
    """Of 20 blocks of 64 threads that move 2000 bytes, 8000 more from L2, and run 100 iterations of `f.loop`."""
    launch = Launch("kernel", 20, 64, {"f.loop": 100.0}, {"in": 1500, "out": 500}, again=8000, **more)
    table = {"kernels": {"sm_90": {"kernel": loops}}, "wavefronts": {"kernel": wavefronts} if wavefronts else {}}
    return predict(launch, SMALL, table=table)


def test_each_bound_by_hand() -> None:
    loops = {"": {"float32": 100}, "f.loop": {"float32": 8, "special": 1, "shared": 1, "tensor": 1}}
    found = predicted(loops, {"tile": 50.0, "sample": 10.0}, tiles=4, tile_samples=100).bounds
    assert found["DRAM"] == pytest.approx(2000 / 1e9)
    assert found["L2"] == pytest.approx(10_000 / 10 / 1e9)
    assert found["load-store"] == pytest.approx((4 * 50 + 100 * 10 + 10_000 / 128) / 10 / 1e9)
    assert found["issue"] == pytest.approx(WARPS * (100 + 100 * 11) / 4 / 10 / 1e9)
    assert found["arithmetic"] == pytest.approx(WARPS * (100 + 100 * 8) * 32 / 64 / 10 / 1e9)  # special: 200 cycles
    assert found["tensor"] == pytest.approx(WARPS * 100 * 4096 / (WARP_PRODUCTS_RATE.value * 1e12))


def test_the_longest_bound_holds_and_the_launch_comes_on_top() -> None:
    dram = predicted({"": {"float32": 1}})
    assert (dram.holds, dram.seconds) == ("DRAM", pytest.approx(2e-6 + LAUNCH_SECONDS.value))
    assert predicted({"": {}, "f.loop": {"special": 100}}).holds == "arithmetic"
    assert predicted({"": {}, "f.loop": {"integer": 100}}).holds == "issue"
    assert predicted({"": {}, "f.loop": {"shared": 100}}).holds == "load-store"  # without a count: one each
    assert predicted({"": {}, "f.loop": {"tensor": 100}}).holds == "tensor"


def test_loops_that_a_launch_does_not_run_cost_nothing_and_unrolled_ones_their_share() -> None:
    assert predicted({"": {}, "f.other": {"integer": 100}}).bounds["issue"] == 0
    plain, unrolled = ({"": {}, "g.outer/f.loop": {"integer": 80} | more} for more in ({}, {"iterations": 4}))
    assert predicted(unrolled).bounds["issue"] == pytest.approx(predicted(plain).bounds["issue"] / 4)


def test_what_one_warp_does_counts_for_each_block() -> None:
    everyone, alone = (predicted({"": {}, path: {"integer": 100}}) for path in ("f.loop", "one warp"))
    assert alone.bounds["issue"] == pytest.approx(everyone.bounds["issue"] / 100 / 2)


def test_few_blocks_leave_multiprocessors_idle() -> None:
    table = {"kernels": {"sm_90": {"kernel": {"": {"integer": 100}}}}, "wavefronts": {}}
    one, all_of_them = (predict(Launch("kernel", blocks, 64, {}, {}), SMALL, table=table) for blocks in (1, 10))
    assert one.bounds["issue"] == pytest.approx(all_of_them.bounds["issue"])


def test_what_is_known_about_the_kernels_comes_out() -> None:
    """Found by hand from counts and in a simulator: what holds the kernels of K = 3 up on an H200."""
    issue = {}
    for dtype in ("float32", "bfloat16"):
        problem = ShiftProblem(32, 512 * 512, 3, 1, "float32", dtype)
        (forward,) = (predict(one, GPUS["H200"]) for one in forward_launches(problem))
        backward = predict(backward_launches(problem)[0], GPUS["H200"])
        assert (forward.holds, forward.basis) == ("DRAM", "counted")
        issue[dtype] = backward.bounds["issue"] / backward.bounds["DRAM"]
    assert 0.5 < issue["float32"] < 1 < issue["bfloat16"] < 1.5


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("gpu", GPUS)
def test_every_table_and_plot_is_labelled(gpu: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    parts = "bandwidth,operators,convolutions,compiled"
    assert command.main(["predict", "--gpu", gpu, "--dry-run", "--parts", parts, "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 10 and all("predicted" in heading for heading in headings)
    assert text.count("\n| fourier_shift_slice") == 4 * (1 + 3) + 2 * (1 + 2)  # rows, and their candidates
    assert plot.stat().st_size > 1000


@pytest.mark.usefixtures("compiled_library")
def test_a_step_is_told_by_parts_and_by_what_it_rests_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "VARIANTS", ("plain", "fused"))  # the expansion's operators are in other rows
    plot = tmp_path / "plot.png"
    assert command.main(["predict", "--dry-run", "--parts", "networks", "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    of_parts = text.partition("## Parts of a training step, predicted")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in of_parts.splitlines() if "resnet18" in line]
    for variant in ("plain", "fused"):
        found = {part: numbers for _, name, part, *numbers in cells if name == variant}
        *parts, whole = found.values()
        assert sum(int(one[2]) for one in parts) == int(whole[2])
        assert sum(float(one[0]) for one in parts) == pytest.approx(float(whole[0]), abs=0.03)
    assert text.partition("## What a training step's time rests on, predicted")[2].count("\n| resnet18") == 2
    assert plot.stat().st_size > 1000


def run_on(gpu: str | None, predicted: dict[str, Any] | None) -> dict[str, Any]:
    """A run that took twice what is predicted, and of a shape that is not."""
    candidates: dict[str, Any] = {"fused": {"kernel_seconds": 1.0, "launches": 1}}
    row = {"operator": "a", "shape": "b", "dtype": "float32", "pass": "forward", "cudnn_benchmark": False}
    row |= {"floor_bytes": 10**8, "multiply_adds": None, "other_work": [], "deviation": None, "candidates": candidates}
    if predicted is not None:
        row = {**predicted, "candidates": {name: twice(found) for name, found in predicted["candidates"].items()}}
    facts = {name: None for name in ("git_commit", "date", "cpu", "system", "python", "torch", "backend")}
    facts |= {"gpu": {"name": gpu, "driver": "", "cuda_of_torch": "", "compute_capability": ""}, "tools": {}}
    parts = {"environment": facts, "operators": {"rows": [row, {**row, "shape": "1x1x3^3"}]}}
    results = {name: {"status": "done", "seconds": 1.0, "result": result} for name, result in parts.items()}
    return {"dry_run": False, "parts": results}


def twice(found: dict[str, Any]) -> dict[str, Any]:
    return {"kernel_seconds": 2 * found["kernel_seconds"], "launches": found["launches"] + 1}


@pytest.fixture
def small_rows(monkeypatch: pytest.MonkeyPatch, compiled_library: None) -> None:
    """Reports predict the sizes of a dry run."""
    monkeypatch.setattr(rows, "PREDICTED", {name: partial(one, dry_run=True) for name, one in rows.PREDICTED.items()})
    for module in (beside, plots):
        monkeypatch.setattr(module, "PREDICTED", rows.PREDICTED)


def test_the_report_sets_measured_beside_predicted(tmp_path: Path, small_rows: None) -> None:
    expected = rows.operator_rows(GPUS["H200"], dry_run=True)["rows"][0]
    results = run_on("NVIDIA H200", expected)
    table = format_report(results).partition("## Measured beside predicted")[2]
    lines = [line for line in table.splitlines() if line.startswith("| fourier")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [one[:3] for one in cells] == [
        ["fourier_shift_slice 4x3x3^3 float32", "forward", name] for name in ("fused", "expansion", "matrix")
    ]
    for one, found in zip(cells, expected["candidates"].values(), strict=True):
        assert float(one[3]) == pytest.approx(2 * float(one[4]), rel=0.05) and one[5] == "2.00"
        assert one[6:8] == [str(found["launches"] + 1), str(found["launches"])]
    assert len(write_report(results, tmp_path)) == 2


def test_steps_and_methods_are_compared_too(small_rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "VARIANTS", ("plain", "fused"))
    network = rows.network_rows(GPUS["H200"], dry_run=True)["rows"][0]
    variants = {name: {**twice(found), "breakdown": None} for name, found in network["variants"].items()}
    methods = rows.convolution_rows(GPUS["H200"], dry_run=True)["rows"][0]
    measured = {"networks": {"rows": [{**network, "variants": variants}]}, "convolutions": {"rows": [methods]}}
    text = beside.beside_measured(measured, GPUS["H200"])
    lines = [line for line in text.splitlines() if line.startswith(("| resnet18", "| 3->4"))]
    times = [line.split("|")[5].strip() for line in lines]
    assert times == ["2.00"] * 2 + ["1.00"] * 10


def test_no_prediction_for_a_gpu_whose_figures_are_not_here() -> None:
    assert gpu_named("NVIDIA GeForce RTX 4090") is gpu_named(None) is None
    assert gpu_named("NVIDIA H200") is GPUS["H200"]
    assert "predicted" not in format_report(run_on("NVIDIA GeForce RTX 4090", None))
