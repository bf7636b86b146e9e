"""The tables of a run's parts, of what was measured and of what is predicted: the same rows and columns."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import format_table

_LESS = 0.995  # of a time: what is told with two digits as less


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


def operators_table(rows: list[dict[str, Any]], bandwidth: float | None) -> str:
    """A row for each operator, shape, type and pass; `bandwidth`: of a copy."""
    predicted = any("bounds" in row["candidates"]["fused"] for row in rows)
    header = ["operator", "pass", "kernels", "events", "host", "launches", "peak MB", "GB/s", "of copy"]
    header += ["times faster than, by kernels", *(["bounds that hold"] if predicted else [])]
    body = []
    for row in rows:
        fused = row["candidates"]["fused"]
        seconds, share = kernel_seconds(fused), share_of_copy(row, bandwidth)
        rate = f"{row['floor_bytes'] / seconds / 1e9:.0f}" if row["floor_bytes"] and seconds else ""
        against = ", ".join(f"{name} {value:.1f}" for name, value in ratios(row).items())
        events = micro(fused.get("seconds")) + ("*" if fused.get("host_bound") else "")
        cells = [title(row), passes(row), micro(fused.get("kernel_seconds")), events]
        cells += [micro(fused.get("host_seconds")), str(fused.get("launches", "")), mega(fused.get("peak_bytes"))]
        cells += [rate, f"{share:.0%}" if share else "", against]
        body.append([*cells, *([percentages(fused["bounds"])] if predicted else [])])
    return format_table(header, body)


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """How many times faster the fused operator is than each candidate that ran, by kernels.

    By events where the profiler did not tell the kernels of both, unless they hold the host's time: a sum of kernels is
    never compared with events.
    """
    fused = row["candidates"]["fused"]
    found = {}
    for name, other in row["candidates"].items():
        by = "kernel_seconds" if fused.get("kernel_seconds") and other.get("kernel_seconds") else "seconds"
        of_host = by == "seconds" and (fused.get("host_bound") or other.get("host_bound"))
        if name != "fused" and fused.get(by) and other.get(by) and not of_host:
            found[name] = other[by] / fused[by]
    return found


def networks_table(rows: list[dict[str, Any]]) -> str:
    """A row for each network and variant."""
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
                body[-1] += [milli(seconds), f"{seconds / of_plain:.2f}" if seconds and of_plain else ""]
            launches = str(found["breakdown"]["launches"]) if found["breakdown"] else ""
            body[-1] += [milli(found.get("host_seconds")), launches]
            body[-1] += [mega(found["peak_bytes"]), mega(found["kept_bytes"])]
    return format_table(header, body)


def convolutions_table(rows: list[dict[str, Any]]) -> str:
    """A row for each layer, batch, type and pass."""
    names = list(dict.fromkeys(name.partition(" ")[0] for row in rows for name in row["seconds"]))
    header = ["layer", "networks", "batch", "dtype", "cudnn.benchmark", "pass", *names, "fastest", "chosen"]
    body = []
    for row in rows:
        for direction in ("forward", "backward"):
            seconds = {name: row["seconds"].get(f"{name} {direction}") for name in names}
            others = ((value, name) for name, value in seconds.items() if value and name != "plain")
            fastest = min(others, default=(0.0, ""))[1]
            benchmark = "yes" if row["cudnn_benchmark"] else "no"
            cells = [row["layer"], " ".join(row["networks"]), str(row["batch"]), row["dtype"], benchmark, direction]
            for name, value in seconds.items():
                cells.append(micro(value) + ("*" if f"{name} {direction}" in row["host_bound"] else ""))
            body.append([*cells, fastest, row["chosen"][direction]])
    return format_table(header, body)


def losing_choices(rows: list[dict[str, Any]]) -> list[str]:
    """Lines that name each method that is faster than the one that is chosen, and each that did not run.

    A time that holds the host's is compared with none.
    """
    lines = []
    for row in rows:
        about = f"- {convolution_title(row)}"
        for direction, chosen in row["chosen"].items():
            told = {
                name.partition(" ")[0]: seconds
                for name, seconds in row["seconds"].items()
                if name.endswith(f" {direction}") and name not in row["host_bound"]
            }
            for name, seconds in told.items():
                ratio = seconds / told.get(chosen, seconds)
                if name != "plain" and ratio < _LESS:
                    lines.append(f"{about}, {direction}: {name} takes {ratio:.2f} of the time of {chosen}, the choice")
        lines += [f"{about}, {name}: {error}" for name, error in row.get("errors", {}).items()]
    return lines


def title(row: dict[str, Any]) -> str:
    """What a row of operators is of."""
    return f"{row['operator']} {row['shape']} {row['dtype']}{_benchmark(row)}"


def convolution_title(row: dict[str, Any]) -> str:
    """What a row of methods is of."""
    return f"{row['layer']} B={row['batch']} {row['dtype']}{_benchmark(row)}"


def _benchmark(row: dict[str, Any]) -> str:
    return " cudnn.benchmark" if row.get("cudnn_benchmark") else ""


def passes(row: dict[str, Any]) -> str:
    """ "forward + backward" """
    text: str = row["pass"].replace("_", " + ")
    return text


def percentages(shares: dict[str, float], least: float = 0.005) -> str:
    """Of shares by name; what is less is left out."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= least)


def milli(seconds: float | None) -> str:
    """Milliseconds; empty for what is not known."""
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def micro(seconds: float | None) -> str:
    """Microseconds; empty for what is not known."""
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def mega(count: int | None) -> str:
    """Megabytes; empty for what is not known."""
    return "" if count is None else f"{count / 1e6:.1f}"
