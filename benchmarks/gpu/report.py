"""The report on a GPU run, made from its JSON on any machine: tables, losing shapes, and the plots of plots.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.beside import beside_measured
from benchmarks.gpu.plots import write_plots
from benchmarks.gpu.prediction.gpus import gpu_named
from benchmarks.gpu.report_tables import (
    convolutions_table,
    losing_choices,
    networks_table,
    operators_table,
    passes,
    ratios,
    share_of_copy,
    title,
)
from benchmarks.tables import format_table

# The share of the copy bandwidth that the operators are built to reach.
WANTED_SHARE = 0.85


def write_report(results: dict[str, Any], folder: Path) -> list[Path]:
    """report.md and the plots that the results allow; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = write_plots(results, folder)
    pictures = "\n\n".join(f"![{plot.stem.replace('_', ' ')}]({plot.name})" for plot in plots)
    report = folder / "report.md"
    report.write_text(f"{format_report(results)}\n{pictures}\n", encoding="utf-8")
    return [report, *plots]


def format_report(results: dict[str, Any]) -> str:
    """The report as Markdown, without the plots; parts that are missing or failed are named, not hidden."""
    sections = ["# crossd_ops on a GPU"]
    if results["dry_run"]:
        sections.append("**A dry run on the CPU in tiny sizes: its figures mean nothing.**")
    sections += [_environment(result_of(results, "environment")), _parts(results["parts"])]
    rows = rows_of(results, "operators") + rows_of(results, "compiled")
    if rows:
        sections += [_operators(rows, copy_bandwidth(results)), _losing(rows, copy_bandwidth(results))]
    if rows_of(results, "networks"):
        sections.append(_networks(rows_of(results, "networks")))
    if rows_of(results, "convolutions"):
        sections.append(_convolutions(rows_of(results, "convolutions")))
    gpu = gpu_named((result_of(results, "environment").get("gpu") or {}).get("name"))
    if gpu is not None and not results["dry_run"]:
        sections.append(beside_measured({part: result_of(results, part) for part in results["parts"]}, gpu))
    return "\n\n".join(section for section in sections if section) + "\n"


def result_of(results: dict[str, Any], part: str) -> dict[str, Any]:
    """What a part found; empty where it did not run."""
    result: dict[str, Any] | None = results["parts"].get(part, {}).get("result")
    return result or {}


def rows_of(results: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The rows of a part, also of one that was cut off."""
    rows: list[dict[str, Any]] = result_of(results, part).get("rows", [])
    return rows


def copy_bandwidth(results: dict[str, Any]) -> float | None:
    """Bytes per second, read and written, of a large copy; None where it was not measured."""
    bandwidth: float | None = result_of(results, "bandwidth").get("copy_bytes_per_second")
    return bandwidth


def _environment(facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    gpu = facts["gpu"] or {"name": "none", "driver": "none", "cuda_of_torch": None, "compute_capability": None}
    lines = {
        "commit": facts["git_commit"] or "unknown",
        "date": facts["date"],
        "GPU": f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver {gpu['driver']}",
        "host": f"{facts['cpu']}, {facts['system']}",
        "software": f"Python {facts['python']}, torch {facts['torch']}, CUDA {gpu['cuda_of_torch']}",
        "compilers": ", ".join(f"{name}: {version or 'none'}" for name, version in facts["tools"].items()),
        "backend": facts["backend"],
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def _parts(parts: dict[str, Any]) -> str:
    body = []
    for name, outcome in parts.items():
        result = outcome.get("result") or {}
        found = ", ".join(f"{count} {word}" for word, count in result.get("counts", {}).items())
        if name == "sanitizer":
            tools = result.get("tools", {})
            found = "; ".join(f"{tool}: exit status {value['exit_status']}" for tool, value in tools.items())
            found += "".join(f"; {tool}: unfinished" for tool in result.get("unfinished", []))
        if result.get("left_out"):
            found = "left out: " + ", ".join(result["left_out"])
        body.append([name, outcome["status"], f"{outcome['seconds']:.1f}", found])
    text = format_table(["part", "status", "seconds", "found"], body)
    faults = [f"- {name}: {fault}" for name, outcome in parts.items() for fault in _faults(outcome)]
    return "## Parts\n\n" + text + ("\n\nFaults:\n\n" + "\n".join(faults) if faults else "")


def _faults(outcome: dict[str, Any]) -> list[str]:
    result = outcome.get("result") or {}
    faults: list[str] = [
        *result.get("faults", []),
        *(f"not launched: {name}" for name in result.get("not_launched", [])),
    ]
    return [*faults, *([outcome["error"]] if outcome.get("error") else [])]


def _operators(rows: list[dict[str, Any]], bandwidth: float | None) -> str:
    introduction = (
        "## Operators\n\nTimes in microseconds, medians of single calls with the L2 cache overwritten before each: "
        "`kernels` the sum of the kernels alone, `events` with the gaps between them, of a GPU that does not wait for "
        "the host (`*`: it did), `host` what the host takes to queue the call. GB/s: the bytes that must move (inputs, "
        "results and gradients, each once) over the time in kernels; `of copy`: that over the bandwidth of a large copy"
    )
    introduction += f" ({bandwidth / 1e9:.0f} GB/s here)." if bandwidth else " (not measured here)."
    return f"{introduction}\n\n{operators_table(rows, bandwidth)}"


def _losing(rows: list[dict[str, Any]], bandwidth: float | None) -> str:
    """Shapes on which an alternative is faster, or the share of the copy bandwidth too low."""
    lines = []
    for row in rows:
        row_title = f"{title(row)}, {passes(row)}"
        faster = [(n, r) for n, r in ratios(row).items() if r < 1 and n not in row["other_work"]]
        lines += [f"- {row_title}: {name} takes {ratio:.2f} of its time" for name, ratio in faster]
        share = share_of_copy(row, bandwidth)
        if share is not None and share < WANTED_SHARE:
            lines.append(f"- {row_title}: {share:.0%} of the copy bandwidth")
        lines += [f"- {row_title}: {n}: {c['error']}" for n, c in row["candidates"].items() if "error" in c]
    return f"## Losing shapes\n\nSlower than an alternative, below {WANTED_SHARE:.0%} of a copy, or not run.\n\n" + (
        "\n".join(lines) or "None."
    )


def _networks(rows: list[dict[str, Any]]) -> str:
    introduction = (
        "Milliseconds: `step` of steps one after the other, the host's time where it is longer than the GPU's; `host` "
        "what it takes to queue a step, `kernels` the sum of the kernels."
    )
    return f"## Training steps\n\n{introduction}\n\n{networks_table(rows)}"


def _convolutions(rows: list[dict[str, Any]]) -> str:
    introduction = (
        "Microseconds of the GPU, building the kernels included; `*`: with the host's, for which it waited. `plain` is "
        "nn.Conv2d, `grouped` the library's grouped convolution, `chosen`: by counting, see csrc/convolution/choice.h."
    )
    losing = "\n".join(losing_choices(rows)) or "None."
    return (
        f"## Methods of the per-sample convolution\n\n{introduction}\n\n{convolutions_table(rows)}\n\n"
        f"## Where the choice loses\n\nMethods that are faster than the chosen one, or did not run.\n\n{losing}"
    )
