"""PNG plots of a GPU run: bytes per second, the roofline, and training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.gpu.beside import Key, key_of
from benchmarks.gpu.prediction.gpus import GPU, gpu_named
from benchmarks.gpu.prediction.rows import PREDICTED, Result
from benchmarks.gpu.report_tables import kernel_seconds, passes, title
from crossd_ops.library import loaded

_COLORS = {"fused": "tab:blue", "expansion": "tab:orange", "matrix": "tab:green", "compiled expansion": "tab:red"}
_COLORS["plain"] = "tab:gray"


def write_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the plots that the results allow; returns their files."""
    parts = {name: outcome.get("result") or {} for name, outcome in results["parts"].items()}
    rows = parts.get("operators", {}).get("rows", []) + parts.get("compiled", {}).get("rows", [])
    ceilings = parts.get("bandwidth", {})
    moved = [row for row in rows if row["floor_bytes"]]
    gpu = gpu_named((parts.get("environment", {}).get("gpu") or {}).get("name"))
    predicted = _predicted(gpu) if gpu and moved and not results["dry_run"] else {}
    figures = {}
    if moved:
        figures["gpu_bandwidth"] = _plot_bandwidth(moved, ceilings, predicted)
    if ceilings and any(row["multiply_adds"] and row["floor_bytes"] for row in rows):
        figures["gpu_roofline"] = _plot_roofline(rows, ceilings)
    if parts.get("networks", {}).get("rows"):
        figures["gpu_networks"] = _plot_networks(parts["networks"]["rows"])
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
        plt.close(figure)
    return paths


def _predicted(gpu: GPU) -> dict[Key, Result]:
    """Rows by what names them; none where the library is missing, without which nothing is predicted."""
    if loaded.load_error:
        return {}
    return {key_of(row): row for part in ("operators", "compiled") for row in PREDICTED[part](gpu)["rows"]}


def _seconds(row: dict[str, Any], name: str) -> float | None:
    return kernel_seconds(row["candidates"].get(name, {}))


def write_predicted_plots(results: dict[str, Result], gpu: GPU, file: Path) -> list[Path]:
    """Operators' bandwidths in the file, training steps in one beside it: where these parts are predicted."""
    figures = {}
    rows = [row for part in ("operators", "compiled") for row in results.get(part, {}).get("rows", [])]
    moved = [row for row in rows if row["floor_bytes"]]
    if moved:
        figures[file] = _plot_bandwidth(moved, {"copy_bytes_per_second": gpu.dram_bytes_per_second}, {})
    if "networks" in results:
        name = file.with_name(f"{file.stem}_networks{file.suffix}") if moved else file
        steps = [
            {**row, "variants": {key: {"seconds": one["kernel_seconds"]} for key, one in row["variants"].items()}}
            for row in results["networks"]["rows"]
        ]
        figures[name] = _plot_networks(steps)
    for path, figure in figures.items():
        axes = figure.axes[0]
        axes.set_title(f"{axes.get_title()} on {gpu.name}: predicted, not measured")
        figure.savefig(path, dpi=120, bbox_inches="tight")
        plt.close(figure)
    return [*figures]


def _plot_bandwidth(rows: list[dict[str, Any]], ceilings: dict[str, Any], predicted: dict[Key, Result]) -> plt.Figure:
    """Each candidate's bytes per second, one line of dots for each operator, shape, type and pass."""
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.22 * len(rows)))
    for name, color in _COLORS.items():
        points = [
            (row["floor_bytes"] / seconds / 1e9, place)
            for place, row in enumerate(rows)
            if (seconds := _seconds(row, name))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=color, label=name)
    expected = [(predicted[key_of(row)], place) for place, row in enumerate(rows) if key_of(row) in predicted]
    if expected:
        points = [(row["floor_bytes"] / (_seconds(row, "fused") or 0) / 1e9, place) for row, place in expected]
        axes.plot(*zip(*points, strict=True), "x", color="black", label="fused, predicted")
    if ceilings:
        axes.axvline(ceilings["copy_bytes_per_second"] / 1e9, color="black", linewidth=1, label="copy")
    titles = [f"{title(row)}, {passes(row)}" for row in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="GB/s of the bytes that must move", title="Bandwidth of the operators")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _plot_roofline(rows: list[dict[str, Any]], ceilings: dict[str, Any]) -> plt.Figure:
    """Multiply-adds per second over multiply-adds per byte, under the two measured ceilings."""
    figure, axes = plt.subplots(figsize=(7.5, 5.5))
    bandwidth, arithmetic = ceilings["copy_bytes_per_second"], ceilings["float32_multiply_adds_per_second"]
    counted = [row for row in rows if row["multiply_adds"] and row["floor_bytes"]]
    intensities = [row["multiply_adds"] / row["floor_bytes"] for row in counted]
    line = sorted([min(intensities) / 4, arithmetic / bandwidth, max(*intensities, arithmetic / bandwidth) * 4])
    axes.plot(line, [min(value * bandwidth, arithmetic) for value in line], color="black", label="measured ceilings")
    for name, color in _COLORS.items():
        points = [
            (intensity, row["multiply_adds"] / seconds)
            for intensity, row in zip(intensities, counted, strict=True)
            if (seconds := _seconds(row, name))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=color, alpha=0.7, label=name)
    axes.set(
        xscale="log", yscale="log", xlabel="multiply-adds per byte that must move", ylabel="multiply-adds per second"
    )
    axes.set_title("Roofline: bandwidth of a copy, float32 matrix product")
    axes.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _plot_networks(rows: list[dict[str, Any]]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(max(5.0, 2.5 * len(rows)), 4.2))
    variants = list(rows[0]["variants"])
    for place, name in enumerate(variants):
        found = [(index, row["variants"][name].get("seconds")) for index, row in enumerate(rows)]
        measured = [(index + (place - (len(variants) - 1) / 2) * 0.25, value * 1e3) for index, value in found if value]
        if not measured:
            continue
        positions, values = zip(*measured, strict=True)
        bars = axes.bar(positions, values, 0.24, color=_COLORS.get(name), label=name)
        axes.bar_label(bars, fmt="{:.1f}", fontsize=8)
    axes.set_xticks(range(len(rows)), [row["network"].replace(" B=", "\nB=") for row in rows], fontsize=8)
    axes.set(yscale="log", ylabel="milliseconds", title="Training step")
    axes.legend()
    return figure
