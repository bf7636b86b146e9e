"""The report of a GPU run: which time counts for what, and what could not be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.gpu.report import format_report, write_report


def results_of(**parts: Any) -> dict[str, Any]:
    return {
        "dry_run": False,
        "parts": {name: {"status": "done", "seconds": 1.0, "result": result} for name, result in parts.items()},
    }


def operator_row(**candidates: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"operator": "shift", "shape": "1x1", "dtype": "float32", "pass": "forward", "other_work": ["plain"]},
        **{"cudnn_benchmark": False, "floor_bytes": None, "multiply_adds": None, "deviation": None},
        "candidates": candidates,
    }


def times(kernels: float | None, events: float | None = None, **more: Any) -> dict[str, Any]:
    return {"kernel_seconds": kernels, "seconds": events or kernels, "host_seconds": 1e-4, "host_bound": False, **more}


def section(title: str, **parts: Any) -> str:
    return format_report(results_of(**parts)).partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the table's lines that begin so."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(first)]


def losing(**candidates: dict[str, Any]) -> list[str]:
    text = section("Losing shapes", operators={"rows": [operator_row(**candidates)]})
    return [line.partition(", forward: ")[2] for line in text.splitlines() if line.startswith("- ")]


def test_losing_shapes_are_told_by_kernels() -> None:
    assert losing(fused=times(1.0, 9.0), matrix=times(2.0, 3.0)) == []
    assert losing(fused=times(2.0, 3.0), matrix=times(1.0, 9.0)) == ["matrix takes 0.50 of its time"]
    assert losing(fused=times(2.0), plain=times(1.0)) == []


@pytest.mark.parametrize("missing", ["fused", "matrix"])
def test_kernels_are_never_compared_with_events(missing: str) -> None:
    """Where the profiler lost those of one, events stand for both, unless they hold the host's time."""
    found = {"fused": times(1.0, 4.0), "matrix": times(2.0, 3.0)}
    found[missing]["kernel_seconds"] = None
    assert losing(**found) == ["matrix takes 0.75 of its time"]
    for name in found:
        assert losing(**{**found, name: {**found[name], "host_bound": True}}) == []


def test_what_did_not_run_is_listed() -> None:
    assert losing(fused=times(1.0), expansion={"error": "OutOfMemoryError: no"}) == ["expansion: OutOfMemoryError: no"]
    assert losing(fused={"error": "a"}, expansion=times(1.0)) == ["fused: a"]


def test_operators_show_every_time_and_the_rows_of_both_parts() -> None:
    first = operator_row(fused=times(1e-6, 2e-6, launches=3, peak_bytes=5e6, host_bound=True), expansion=times(4e-6))
    second = {**operator_row(fused=times(1e-6)), "cudnn_benchmark": True}
    text = section("Operators", operators={"rows": [first]}, compiled={"rows": [second]})
    cells = rows_of(text, "| shift")
    assert cells[0] == ["shift 1x1 float32", "forward", "1.0", "2.0*", "100.0", "3", "5.0", "", "", "expansion 4.0"]
    assert cells[1][:2] == ["shift 1x1 float32 cudnn.benchmark", "forward"]


def network_row(**variants: dict[str, Any]) -> dict[str, Any]:
    return {"network": "resnet18 B=2", "variants": variants}


def step(seconds: float, kernels: float | None) -> dict[str, Any]:
    found = {"seconds": seconds, "kernel_seconds": kernels, "host_seconds": 0.012, "peak_bytes": None}
    return {**found, "kept_bytes": 2e6, "breakdown": {"launches": 7} if kernels else None}


def test_networks_are_compared_by_steps_and_by_kernels(tmp_path: Path) -> None:
    row = network_row(plain=step(0.02, 0.004), fused=step(0.03, 0.01), expansion={"error": "OutOfMemoryError: no"})
    text = section("Training steps", networks={"rows": [row]})
    cells = [row[1:] for row in rows_of(text, "| resnet18")]
    assert cells[0] == ["plain", "20.00", "1.00", "4.00", "1.00", "12.00", "7", "", "2.0"]
    assert cells[1] == ["fused", "30.00", "1.50", "10.00", "2.50", "12.00", "7", "", "2.0"]
    assert cells[2][:3] == ["expansion", "OutOfMemoryError: no", ""]
    without_plain = network_row(plain={"error": "no"}, fused=step(0.03, None), expansion=step(1.0, None))
    report, plot = write_report(results_of(networks={"rows": [row, without_plain]}), tmp_path)
    assert plot.name == "gpu_networks.png" and plot.stat().st_size > 1000
    assert rows_of(report.read_text(), "| resnet18")[4][1:5] == ["fused", "30.00", "", ""]


def method_row(seconds: dict[str, float], **more: Any) -> dict[str, Any]:
    row = {"layer": "3->4", "networks": ["resnet18", "unet"], "batch": 2, "dtype": "float32", "cudnn_benchmark": True}
    row |= {"seconds": seconds, "host_bound": [], "errors": {}, "chosen": {"forward": "tiles", "backward": "grouped"}}
    return {**row, **more}


def test_convolutions_tell_the_choice_of_cudnn_and_who_waited() -> None:
    seconds = {
        f"{name} {way}": 2e-6 for name in ("plain", "grouped", "loop", "matrix") for way in ("forward", "backward")
    }
    row = method_row({**seconds, "matrix backward": 1e-6, "tiles forward": 1.5e-6}, host_bound=["loop forward"])
    text = section("Methods of the per-sample convolution", convolutions={"rows": [row]})
    cells = rows_of(text, "| 3->4")
    of_row = ["3->4", "resnet18 unet", "2", "float32", "yes"]
    assert cells[0] == [*of_row, "forward", "2.0", "2.0", "2.0*", "2.0", "1.5", "tiles", "tiles"]
    assert cells[1] == [*of_row, "backward", "2.0", "2.0", "2.0", "1.0", "", "matrix", "grouped"]


def test_where_the_choice_loses_is_told() -> None:
    seconds = {"plain forward": 1e-6, "grouped forward": 2e-6, "matrix forward": 3.99e-6, "tiles forward": 4e-6}
    waited = method_row({"grouped backward": 4e-6, "loop backward": 1e-6}, host_bound=["loop backward"])
    without = method_row({"plain forward": 1e-6}, errors={"tiles forward": "OutOfMemoryError: no"})
    rows = [method_row(seconds), waited, without, method_row({**seconds, "grouped forward": 4e-6})]
    text = section("Where the choice loses", convolutions={"rows": rows})
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- 3->4 B=2 float32 cudnn.benchmark, forward: grouped takes 0.50 of the time of tiles, the choice",
        "- 3->4 B=2 float32 cudnn.benchmark, tiles forward: OutOfMemoryError: no",
    ]
    assert section("Where the choice loses", convolutions={"rows": rows[3:]}).endswith("None.\n")


def test_tools_that_did_not_finish_are_named() -> None:
    tools = {"memcheck": {"exit_status": 0}}
    text = section("Parts", sanitizer={"tools": tools, "unfinished": ["racecheck"]})
    assert "memcheck: exit status 0; racecheck: unfinished" in text
