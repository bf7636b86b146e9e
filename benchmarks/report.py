"""Results as Markdown tables (on the screen and in report.md) and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.networks.report import network_sections
from benchmarks.plots import write_plots
from benchmarks.tables import format_table

# Above this share of the CPU time in other hands the report warns that its times are inflated.
_BUSY_SHARE = 0.05


def format_report(results: dict[str, Any]) -> str:
    """The whole report as Markdown, without the plots."""
    sections = ["# Benchmark of crossd_ops", _environment_section(results["environment"])]
    if results["environment"]["backend"] == "reference":
        sections.append(
            "**No compiled kernels were found for this device: `crossd_ops` runs its FFT reference, so the figures "
            "below compare the expansion with itself.**"
        )
    if (results["environment"]["other_cpu_use"] or 0) > _BUSY_SHARE:
        sections.append(
            f"**Other processes used {results['environment']['other_cpu_use']:.0%} of the CPU time during this run: "
            "times are longer than on an idle machine, those of short calls most.**"
        )
    if results["operator"] is not None:
        sections += _operator_sections(results["operator"])
    if results["training"] is not None:
        sections.append(_training_section(results["training"]))
    if results["network"] is not None:
        sections += network_sections(results["network"])
    return "\n\n".join(sections) + "\n"


def write_report(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write results.json, the plots and report.md into `folder`; return the files."""
    results_file, report_file = folder / "results.json", folder / "report.md"
    results_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plots = write_plots(results, folder)
    pictures = "\n\n".join(f"![{plot.stem.replace('_', ' ')}]({plot.name})" for plot in plots)
    report_file.write_text(f"{format_report(results)}\n{pictures}\n", encoding="utf-8")
    return [report_file, results_file, *plots]


def _environment_section(environment: dict[str, Any]) -> str:
    gpu = environment["gpu"]
    share = environment["other_cpu_use"]
    use = "not known" if share is None else f"{share:.0%} of the CPU time"
    machine = f"{environment['cpu']}, {environment['threads']} threads ({environment['cpu_capability']})"
    rows = [
        ["date", environment["date"]],
        ["device", f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda_of_torch']}" if gpu else "CPU"],
        ["host", f"{machine}, other processes: {use}"],
        ["software", f"Python {environment['python']}, torch {environment['torch']}"],
        ["crossd_ops", f"{environment['crossd_ops']}, commit {environment['git_commit'] or 'unknown'}"],
        ["backend", environment["backend"]],
    ]
    return "\n".join(f"- {name}: {value}" for name, value in rows)


def _operator_sections(rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    introduction = (
        f"## Operator: one slice for each of {first['batch']} samples\n\n"
        "`fourier_shift_slice` (fused) against the torch.fft expansion, gradients of weight and shift included. Median "
        "time of single calls, both in turns within one run. GB/s: the bytes that must be moved (weight, slices, "
        "gradients, each once), over the fused time."
    )
    return [
        f"{introduction}\n\n{_time_table(rows)}",
        "Fused forward against a copy of its output (`clone`: into fresh memory, as the operator's own output; in "
        f"place: into memory that is there)\n\n{_copy_table(rows)}",
        "Peak memory beyond inputs, output and gradients, MB (resolution on a CPU: about 1 MB)\n\n"
        + _memory_table(rows),
        "Largest deviation, relative to the largest value: fused from expansion, then each from the expansion in "
        f"float64\n\n{_deviation_table(rows)}",
    ]


def _row_name(row: dict[str, Any]) -> str:
    return row["layer"] if row["out_dtype"] == "float32" else f"{row['layer']} {row['out_dtype']}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _time_table(rows: list[dict[str, Any]]) -> str:
    header = ["layer"]
    for title in ("forward", "forward + backward"):
        header += [f"{title}: fused ms", "expansion ms", "times faster", "GB/s"]
    body = []
    for row in rows:
        cells = [_row_name(row)]
        for timing in (row["forward"], row["forward_backward"]):
            cells += [_milliseconds(timing["fused_seconds"]), _milliseconds(timing["expansion_seconds"])]
            cells += [_ratio(timing["times_faster"]), f"{timing['fused_bytes_per_second'] / 1e9:.3g}"]
        body.append(cells)
    return format_table(header, body)


def _copy_table(rows: list[dict[str, Any]]) -> str:
    header = ["layer", "forward ms", "clone ms", "forward / clone", "copy in place ms", "forward / copy in place"]
    body = []
    for row in rows:
        forward = row["forward"]["fused_seconds"]
        cells = [_row_name(row), _milliseconds(forward)]
        for copy in (row["copy_seconds"], row["copy_in_place_seconds"]):
            cells += [_milliseconds(copy), f"{forward / copy:.2f}"]
        body.append(cells)
    return format_table(header, body)


def _memory_table(rows: list[dict[str, Any]]) -> str:
    header = ["layer", "forward: fused", "expansion", "forward + backward: fused", "expansion"]
    body = []
    for row in rows:
        counts = [
            row["extra_bytes"][kind][name]
            for kind in ("forward", "forward_backward")
            for name in ("fused", "expansion")
        ]
        body.append([_row_name(row), *("not known" if count is None else f"{count / 1e6:.1f}" for count in counts)])
    return format_table(header, body)


def _deviation_table(rows: list[dict[str, Any]]) -> str:
    quantities = {"output": "output", "grad_weight": "weight gradient", "grad_shift": "shift gradient"}
    header = ["layer"]
    for title in quantities.values():
        header += [title, "fused (f64)", "expansion (f64)"]
    body = []
    for row in rows:
        comparisons = (
            row["deviation"][key] for key in ("fused_from_expansion", "fused_from_float64", "expansion_from_float64")
        )
        columns = list(comparisons)
        body.append([_row_name(row), *(f"{column[name]:.1e}" for name in quantities for column in columns)])
    return format_table(header, body)


def _training_section(training: dict[str, Any]) -> str:
    chance = 1 / len(training["classes"])
    titles = {
        "fused": "fused",
        "expansion": "torch.fft expansion",
        "fused_perturbed": "fused, weights changed by one rounding",
    }
    body = []
    for name, title in titles.items():
        run = training["runs"][name]
        cells = [
            title,
            _milliseconds(run["median_step_seconds"]),
            f"{run['losses'][0]:.4f}",
            f"{run['losses'][-1]:.4f}",
        ]
        body.append([*cells, f"{run['held_out_accuracy']:.3f}"])
    table = format_table(["run", "step ms (median)", "first loss", "last loss", "held-out accuracy"], body)
    size = training["patch_size"]
    return (
        f"## Training on real images: {training['times_faster']:.1f} times faster\n\n"
        f"Four CrossDConv2d layers, channels {training['channels']}, {training['parameters']} parameters, batch "
        f"{training['batch']}, {training['steps']} steps of {training['optimizer']}. Task: which of "
        f"{len(training['classes'])} AAL regions lies at the centre of an axial {size}x{size} patch (2 mm a pixel) "
        f"of the MNI152 T1 template; {training['train_patches']} training patches, {training['held_out_patches']} "
        f"held-out ones from other slices of the same head; chance {chance:.3f}.\n\n{table}\n\n{_loss_table(training)}"
    )


def _loss_table(training: dict[str, Any]) -> str:
    titles = {
        "loss_difference": "fused and expansion, float32",
        "loss_difference_of_perturbed": "fused and fused from weights changed by one rounding, float32",
        "loss_difference_in_float64": "fused and expansion, float64",
    }
    body = []
    for key, title in titles.items():
        difference = training[key]
        steps = len(difference["each_step"])
        body.append([title, f"{difference['largest_early']:.1e}", f"{difference['largest']:.1e}", str(steps)])
    early = training["loss_difference"]["early_steps"]
    header = ["largest difference of the losses between", f"first {early} steps", "all steps", "steps"]
    return (
        "Training multiplies rounding differences from step to step; the second line shows how far rounding alone "
        "drives the losses apart, the third that the two implementations agree where rounding is small.\n\n"
        f"{format_table(header, body)}"
    )
