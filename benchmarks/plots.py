"""PNG plots of the results."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.networks.report import plot_networks

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_FUSED, _EXPANSION, _CONTROL = "tab:blue", "tab:orange", "tab:gray"


def write_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots that the results allow; return their files."""
    figures = {}
    if results["operator"] is not None:
        figures["speed_up"] = _plot_speed_up(results["operator"])
        figures["time_breakdown"] = _plot_time_breakdown(results["operator"])
    if results["training"] is not None:
        figures["loss_curves"] = _plot_loss_curves(results["training"])
    if results["network"] is not None:
        figures["networks"] = plot_networks(results["network"])
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
        plt.close(figure)
    return paths


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    short = {"float32": "", "bfloat16": "\nbf16"}
    return [row["layer"].replace("^3", "³") + short[row["out_dtype"]] for row in rows]


def _plot_speed_up(rows: list[dict[str, Any]]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(max(6.0, 1.1 * len(rows)), 4.5))
    width = 0.4
    for offset, kind, color in ((-width / 2, "forward", _FUSED), (width / 2, "forward_backward", "tab:green")):
        positions = [position + offset for position in range(len(rows))]
        bars = axes.bar(positions, [row[kind]["times_faster"] for row in rows], width, color=color)
        bars.set_label(kind.replace("_", " + "))
        axes.bar_label(bars, fmt="{:.0f}", fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(rows)), _labels(rows), fontsize=8)
    axes.set_xlabel("layer: output x input channels x kernel")
    axes.set_ylabel("times faster than the expansion")
    axes.set_title(f"fourier_shift_slice against the torch.fft expansion, batch {rows[0]['batch']}")
    axes.legend()
    return figure


def _plot_time_breakdown(rows: list[dict[str, Any]]) -> plt.Figure:
    """Forward and backward stacked; a panel for each implementation, since one is a hundredth of the other."""
    figure, panels = plt.subplots(2, 1, figsize=(max(6.0, 1.1 * len(rows)), 7.5), sharex=True)
    positions = range(len(rows))
    for axes, name, color in zip(panels, ("fused", "expansion"), (_FUSED, _EXPANSION), strict=True):
        forward = [row["forward"][f"{name}_seconds"] * 1e3 for row in rows]
        whole = [row["forward_backward"][f"{name}_seconds"] * 1e3 for row in rows]
        backward = [max(0.0, both - first) for both, first in zip(whole, forward, strict=True)]
        axes.bar(positions, forward, 0.6, color=color, label="forward")
        axes.bar(positions, backward, 0.6, bottom=forward, color=color, alpha=0.45, label="backward")
        axes.set_ylabel("milliseconds")
        axes.set_title(f"Time of one call, {name}")
    copies = [row["copy_seconds"] * 1e3 for row in rows]
    panels[0].plot(positions, copies, "_", color="black", markersize=22, label="clone of the output")
    for axes in panels:
        axes.legend()
    panels[1].set_xticks(positions, _labels(rows), fontsize=8)
    panels[1].set_xlabel("layer: output x input channels x kernel")
    return figure


def _plot_loss_curves(training: dict[str, Any]) -> plt.Figure:
    figure, (by_step, by_time, difference) = plt.subplots(1, 3, figsize=(15, 4.2))
    styles = {"fused": (_FUSED, "-"), "expansion": (_EXPANSION, "--")}
    for name, (color, style) in styles.items():
        run = training["runs"][name]
        steps = range(1, len(run["losses"]) + 1)
        by_step.plot(steps, run["losses"], style, color=color, label=name)
        by_time.plot(list(itertools.accumulate(run["step_seconds"])), run["losses"], style, color=color, label=name)
    by_step.set(xlabel="step", ylabel="cross-entropy", title="Training loss")
    by_time.set(xlabel="seconds of training", ylabel="cross-entropy", title="Training loss over time")
    by_time.set_xscale("log")
    curves = {
        "loss_difference": ("fused and expansion, float32", _FUSED),
        "loss_difference_of_perturbed": ("rounding alone, float32", _CONTROL),
        "loss_difference_in_float64": ("fused and expansion, float64", "tab:green"),
    }
    for key, (label, color) in curves.items():
        # Losses that are equal to the last bit cannot be drawn on a logarithmic axis.
        points = [(step, value) for step, value in enumerate(training[key]["each_step"], start=1) if value > 0]
        if points:
            difference.plot(*zip(*points, strict=True), ".-", color=color, label=label)
    difference.set(
        xlabel="step", ylabel="absolute difference of the losses", title="Distance of two runs", yscale="log"
    )
    for axes in (by_step, by_time, difference):
        axes.legend()
    return figure
