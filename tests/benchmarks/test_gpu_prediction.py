"""Predicted times: each bound by hand, the rows those of the run, and measured beside predicted in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.measurements import cases
from benchmarks.gpu.prediction.bounds import LAUNCH_SECONDS, Prediction, predict
from benchmarks.gpu.prediction.gpus import GPU, GPUS
from benchmarks.gpu.prediction.launches import Launch
from benchmarks.gpu.prediction.predict import predicted_rows, predictions_of
from benchmarks.gpu.report import format_report, write_report

# 10 multiprocessors of 1 GHz, for figures that can be done in the head.
SMALL = GPU("small", "sm_90", 10, 1e9, 1e9, 10.0, 1e12, {"float32": 64, "special": 16}, "nowhere")
WARPS = 20 * 2


def predicted(loops: dict[str, dict[str, int]], wavefronts: dict[str, float] | None = None, **more: Any) -> Prediction:
    """Of 20 blocks of 64 threads that move 2000 bytes, 8000 more from L2, and run 100 iterations of `f.loop`."""
    launch = Launch("kernel", 20, 64, {"f.loop": 100.0}, {"in": 1500, "out": 500}, again=8000, **more)
    table = {"kernels": {"sm_90": {"kernel": loops}}, "wavefronts": {"kernel": wavefronts} if wavefronts else {}}
    return predict(launch, SMALL, table)


def test_each_bound_by_hand() -> None:
    loops = {"": {"float32": 100}, "f.loop": {"float32": 8, "special": 1, "shared": 1, "tensor": 1}}
    found = predicted(loops, {"tile": 50.0, "sample": 10.0}, tiles=4, tile_samples=100).bounds
    assert found["DRAM"] == pytest.approx(2000 / 1e9)
    assert found["L2"] == pytest.approx(10_000 / 10 / 1e9)
    assert found["load-store"] == pytest.approx((4 * 50 + 100 * 10 + 10_000 / 128) / 10 / 1e9)
    assert found["issue"] == pytest.approx(WARPS * (100 + 100 * 11) / 4 / 10 / 1e9)
    assert found["arithmetic"] == pytest.approx(WARPS * (100 + 100 * 8) * 32 / 64 / 10 / 1e9)  # special: 200 cycles
    assert found["tensor"] == pytest.approx(WARPS * 100 * 4096 / 1e12)


def test_the_longest_bound_holds_and_the_launch_comes_on_top() -> None:
    dram = predicted({"": {"float32": 1}})
    assert (dram.holds, dram.seconds) == ("DRAM", pytest.approx(2e-6 + LAUNCH_SECONDS))
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
    one, all_of_them = (predict(Launch("kernel", blocks, 64, {}, {}), SMALL, table) for blocks in (1, 10))
    assert one.bounds["issue"] == pytest.approx(all_of_them.bounds["issue"])


@pytest.mark.parametrize(
    "case",
    [
        cases._slice((64, 3, 7), torch.bfloat16, torch.device("cpu"), dry_run=False),
        cases._slice((64, 64, 3), torch.float32, torch.device("cpu"), dry_run=False),
        cases._head_map((32, 28, 28), torch.bfloat16, torch.device("cpu")),
        cases._volume(torch.device("cpu"), dry_run=False),
    ],
    ids=lambda case: f"{case.operator} {case.dtype}",
)
def test_rows_are_those_of_the_run(case: cases.Case) -> None:
    rows = predictions_of("NVIDIA H200")
    for direction, floor in case.floor_bytes.items():
        assert rows[case.operator, case.shape, case.dtype, direction].floor_bytes == floor


def test_what_is_known_about_the_kernels_comes_out() -> None:
    """Found by hand from counts and in a simulator: what holds the kernels of K = 3 up on an H200."""
    rows = {row.key[2:]: row for row in predicted_rows(GPUS["H200"])[0] if row.shape == "512x512x3^3"}
    issue = {}
    for dtype in ("float32", "bfloat16"):
        forward, backward, _ = rows[dtype, "forward_backward"].launches
        assert forward.holds == "DRAM"
        issue[dtype] = backward.bounds["issue"] / backward.bounds["DRAM"]
    assert 0.5 < issue["float32"] < 1 < issue["bfloat16"] < 1.5


@pytest.mark.parametrize("gpu", GPUS)
def test_every_table_and_plot_is_labelled(gpu: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    assert command.main(["predict", "--gpu", gpu, "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 3 and all("predicted" in heading for heading in headings)
    assert text.count("\n| fourier_shift_slice") == 36 and text.count("\n| rotation_head ") == 16
    assert "Not predicted: head, conv2d, conv3d, rotation" in text
    assert plot.stat().st_size > 1000


def run_on(gpu: str | None) -> dict[str, Any]:
    key = {"operator": "fourier_shift_slice", "shape": "512x512x3^3", "dtype": "float32", "pass": "forward"}
    fused = {"kernel_seconds": 2 * predictions_of("H200")[tuple(key.values())].seconds, "launches": 1}
    row = {**key, "cudnn_benchmark": False, "floor_bytes": 10**8, "multiply_adds": None, "other_work": []}
    row |= {"deviation": None, "candidates": {"fused": fused}}
    facts = {name: None for name in ("git_commit", "date", "cpu", "system", "python", "torch", "backend")}
    facts |= {"gpu": {"name": gpu, "driver": "", "cuda_of_torch": "", "compute_capability": ""}, "tools": {}}
    parts = {"environment": facts, "operators": {"rows": [row, {**row, "shape": "1x1x3^3"}]}}
    results = {name: {"status": "done", "seconds": 1.0, "result": result} for name, result in parts.items()}
    return {"dry_run": False, "parts": results}


def test_the_report_sets_measured_beside_predicted(tmp_path: Path) -> None:
    report = format_report(run_on("NVIDIA H200"))
    table = report.partition("## Measured beside predicted")[2].partition("## ")[0]
    (line,) = (line for line in table.splitlines() if line.startswith("| fourier"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[0] == "fourier_shift_slice 512x512x3^3 float32"
    assert float(cells[2]) == pytest.approx(2 * float(cells[3]), rel=0.01)
    assert cells[4:] == ["2.00", "1", "1", "DRAM"]
    assert len(write_report(run_on("NVIDIA H200"), tmp_path)) == 2


def test_no_prediction_for_a_gpu_whose_figures_are_not_here() -> None:
    assert predictions_of("NVIDIA GeForce RTX 4090") == predictions_of(None) == {}
    assert "predicted" not in format_report(run_on("NVIDIA GeForce RTX 4090"))
