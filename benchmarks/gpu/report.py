"""The report on a GPU run, made from its JSON on any machine: tables, losing shapes, and the plots of plots.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.plots import write_plots
from benchmarks.gpu.prediction.predict import Key, Row, key_of, predictions_of
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
        sections += [*_operators(rows, copy_bandwidth(results)), _losing(rows, copy_bandwidth(results))]
        gpu = (result_of(results, "environment").get("gpu") or {}).get("name")
        sections.append(_predicted(rows, predictions_of(gpu)))
    if rows_of(results, "networks"):
        sections.append(_networks(rows_of(results, "networks")))
    if rows_of(results, "convolutions"):
        sections.append(_convolutions(rows_of(results, "convolutions")))
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


def kernel_seconds(candidate: dict[str, Any]) -> float | None:
    """Time in kernels, where the profiler told it; otherwise that between events, which holds the gaps between them."""
    value: float | None = candidate.get("kernel_seconds") or candidate.get("seconds")
    return value


def share_of_copy(row: dict[str, Any], bandwidth: float | None) -> float | None:
    """The fused operator's bytes per second over those of a copy, counting the bytes that must move."""
    seconds = kernel_seconds(row["candidates"]["fused"])
    if row["floor_bytes"] is None or bandwidth is None or not seconds:
        return None
    share: float = row["floor_bytes"] / seconds / bandwidth
    return share


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


def _operators(rows: list[dict[str, Any]], bandwidth: float | None) -> list[str]:
    introduction = (
        "## Operators\n\nTimes in microseconds, medians of single calls with the L2 cache overwritten before each: "
        "`kernels` the sum of the kernels alone, `events` with the gaps between them, of a GPU that does not wait for "
        "the host (`*`: it did), `host` what the host takes to queue the call. GB/s: the bytes that must move (inputs, "
        "results and gradients, each once) over the time in kernels; `of copy`: that over the bandwidth of a large copy"
    )
    introduction += f" ({bandwidth / 1e9:.0f} GB/s here)." if bandwidth else " (not measured here)."
    header = ["operator", "pass", "kernels", "events", "host", "launches", "peak MB", "GB/s", "of copy"]
    header.append("times faster than, by kernels")
    body = []
    for row in rows:
        fused = row["candidates"]["fused"]
        seconds, share = kernel_seconds(fused), share_of_copy(row, bandwidth)
        rate = f"{row['floor_bytes'] / seconds / 1e9:.0f}" if row["floor_bytes"] and seconds else ""
        against = ", ".join(f"{name} {value:.1f}" for name, value in _ratios(row).items())
        events = _micro(fused.get("seconds")) + ("*" if fused.get("host_bound") else "")
        body.append([_title(row), row["pass"].replace("_", " + "), _micro(fused.get("kernel_seconds")), events])
        body[-1] += [_micro(fused.get("host_seconds")), str(fused.get("launches", "")), _mega(fused.get("peak_bytes"))]
        body[-1] += [rate, f"{share:.0%}" if share else "", against]
    return [f"{introduction}\n\n{format_table(header, body)}"]


def _ratios(row: dict[str, Any]) -> dict[str, float]:
    """How many times faster the fused operator is than each candidate that ran, by kernels.

    By events where the profiler did not tell the kernels of both, unless they hold the host's time: a sum of kernels is
    never compared with events.
    """
    fused = row["candidates"]["fused"]
    ratios = {}
    for name, other in row["candidates"].items():
        by = "kernel_seconds" if fused.get("kernel_seconds") and other.get("kernel_seconds") else "seconds"
        of_host = by == "seconds" and (fused.get("host_bound") or other.get("host_bound"))
        if name != "fused" and fused.get(by) and other.get(by) and not of_host:
            ratios[name] = other[by] / fused[by]
    return ratios


def _predicted(rows: list[dict[str, Any]], predicted: dict[Key, Row]) -> str:
    """Measured beside predicted; empty where nothing is predicted for this GPU."""
    body = []
    for row in rows:
        expected, seconds = predicted.get(key_of(row)), row["candidates"].get("fused", {}).get("kernel_seconds")
        if expected is not None:
            times = f"{seconds / expected.seconds:.2f}" if seconds else ""
            cells = [_title(row), row["pass"].replace("_", " + "), _micro(seconds), _micro(expected.seconds), times]
            launches = row["candidates"].get("fused", {}).get("launches", "")
            body.append([*cells, str(launches), str(len(expected.launches)), expected.holds])
    if not body:
        return ""
    introduction = (
        "Microseconds in kernels, and launches. What is predicted goes by counts of bytes, bank conflicts and "
        "instructions (`python -m benchmarks.gpu predict`); times predicted: how far latency, occupancy and what else "
        "the counts leave out make it longer."
    )
    header = ["operator", "pass", "measured", "predicted", "times predicted"]
    header += ["launches", "launches predicted", "bounds that hold, predicted"]
    return f"## Measured beside predicted\n\n{introduction}\n\n{format_table(header, body)}"


def _losing(rows: list[dict[str, Any]], bandwidth: float | None) -> str:
    """Shapes on which an alternative is faster, or the share of the copy bandwidth too low."""
    lines = []
    for row in rows:
        title = f"{_title(row)}, {row['pass'].replace('_', ' + ')}"
        faster = [(n, r) for n, r in _ratios(row).items() if r < 1 and n not in row["other_work"]]
        lines += [f"- {title}: {name} takes {ratio:.2f} of its time" for name, ratio in faster]
        share = share_of_copy(row, bandwidth)
        if share is not None and share < WANTED_SHARE:
            lines.append(f"- {title}: {share:.0%} of the copy bandwidth")
        lines += [f"- {title}: {n}: {c['error']}" for n, c in row["candidates"].items() if "error" in c]
    return f"## Losing shapes\n\nSlower than an alternative, below {WANTED_SHARE:.0%} of a copy, or not run.\n\n" + (
        "\n".join(lines) or "None."
    )


def _networks(rows: list[dict[str, Any]]) -> str:
    introduction = (
        "Milliseconds: `step` of steps one after the other, the host's time where it is longer than the GPU's; `host` "
        "what it takes to queue a step, `kernels` the sum of the kernels."
    )
    header = ["network", "variant", "step", "times plain", "kernels", "times plain", "host"]
    header += ["launches", "peak MB", "kept MB"]
    body = []
    for row in rows:
        plain = row["variants"]["plain"]
        for name, found in row["variants"].items():
            body.append([row["network"], name])
            if "error" in found:
                body[-1] += [found["error"], *[""] * (len(header) - 3)]
                continue
            for by in ("seconds", "kernel_seconds"):
                seconds, of_plain = found.get(by), plain.get(by)
                body[-1] += [_milli(seconds), f"{seconds / of_plain:.2f}" if seconds and of_plain else ""]
            launches = str(found["breakdown"]["launches"]) if found["breakdown"] else ""
            body[-1] += [_milli(found.get("host_seconds")), launches]
            body[-1] += [_mega(found["peak_bytes"]), _mega(found["kept_bytes"])]
    return f"## Training steps\n\n{introduction}\n\n{format_table(header, body)}"


def _convolutions(rows: list[dict[str, Any]]) -> str:
    header = ["layer", "batch", "dtype", "cudnn.benchmark", "pass", "plain us", "grouped", "loop", "matrix", "fastest"]
    body = []
    for row in rows:
        for direction in ("forward", "backward"):
            seconds = {name: row["seconds"][f"{name} {direction}"] for name in ("plain", "grouped", "loop", "matrix")}
            fastest = min((value, name) for name, value in seconds.items() if name != "plain")[1]
            benchmark = "yes" if row["cudnn_benchmark"] else "no"
            cells = [row["layer"], str(row["batch"]), row["dtype"], benchmark, direction]
            for name, value in seconds.items():
                cells.append(_micro(value) + ("*" if f"{name} {direction}" in row["host_bound"] else ""))
            body.append([*cells, fastest])
    introduction = "Microseconds of the GPU; `*`: with the host's, for which it waited."
    return f"## Methods of the per-sample convolution\n\n{introduction}\n\n{format_table(header, body)}"


def _title(row: dict[str, Any]) -> str:
    benchmark = " cudnn.benchmark" if row.get("cudnn_benchmark") else ""
    return f"{row['operator']} {row['shape']} {row['dtype']}{benchmark}"


def _milli(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def _micro(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _mega(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"
