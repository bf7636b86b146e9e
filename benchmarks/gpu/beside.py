"""What a run has measured, with what is predicted for the same rows beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.prediction.gpus import GPU
from benchmarks.gpu.prediction.rows import PREDICTED, Result
from benchmarks.gpu.report_tables import convolution_title, mega, micro, milli, passes, percentages, title
from benchmarks.tables import format_table
from crossd_ops.library import loaded

Key = tuple[Any, ...]
_INTRODUCTION = (
    "## Measured beside predicted\n\nTimes in kernels, launches, and memory at its peak: predicted is that of tensors "
    "alone. What is predicted goes by counts of bytes, bank conflicts and instructions for crossd_ops' kernels, and by "
    "a roofline for those of torch and of libraries (`python -m benchmarks.gpu predict`); times predicted: how far "
    "latency, occupancy and what else it leaves out make it longer."
)
_HEADER = ["measured", "predicted", "times predicted", "launches", "launches predicted", "peak MB"]
_HEADER += ["peak MB predicted", "bounds that hold, predicted"]


def beside_measured(results: dict[str, Result], gpu: GPU) -> str:
    """Sections of Markdown, by part of the run; empty where nothing that was measured is predicted."""
    if loaded.load_error:
        return f"## Measured beside predicted\n\nNothing is predicted here: {loaded.missing_kernels('cpu')}"
    tables = []
    for part, (header, compared) in _COMPARED.items():
        body = compared(results[part], PREDICTED[part](gpu)) if results.get(part) else []
        if body:
            tables.append(f"{format_table([*header, *_HEADER], body)}")
    return "\n\n".join([_INTRODUCTION, *tables]) if tables else ""


def key_of(row: Result) -> Key:
    """What names a row of operators."""
    return row["operator"], row["shape"], row["dtype"], row["cudnn_benchmark"], row["pass"]


def _operators(measured: Result, predicted: Result) -> list[list[str]]:
    expected = {key_of(row): row["candidates"] for row in predicted["rows"]}
    body = []
    for row in measured.get("rows", []):
        for name, found in row["candidates"].items():
            one = expected.get(key_of(row), {}).get(name)
            if one is not None and "error" not in found:
                body.append([title(row), passes(row), name, *_cells(found, one, micro)])
    return body


def _networks(measured: Result, predicted: Result) -> list[list[str]]:
    expected = {row["network"]: row["variants"] for row in predicted["rows"]}
    body = []
    for row in measured.get("rows", []):
        for name, found in row["variants"].items():
            one = expected.get(row["network"], {}).get(name)
            if one is not None and "error" not in found:
                launches = (found.get("breakdown") or {}).get("launches", "")
                body.append([row["network"], name, *_cells({**found, "launches": launches}, one, milli)])
    return body


def _convolutions(measured: Result, predicted: Result) -> list[list[str]]:
    names = ("layer", "batch", "dtype", "cudnn_benchmark")
    expected = {tuple(row[name] for name in names): row for row in predicted["rows"]}
    body = []
    for row in measured.get("rows", []):
        one = expected.get(tuple(row[name] for name in names), {"seconds": {}})
        for method in (name for name in row["seconds"] if name in one["seconds"]):
            times = (
                {"kernel_seconds": row["seconds"][method]},
                {"kernel_seconds": one["seconds"][method], "bounds": {}},
            )
            body.append([convolution_title(row), method, *_cells(*times, micro)])
    return body


def _cells(found: Result, expected: Result, unit: Callable[[float | None], str]) -> list[str]:
    seconds, predicted = found.get("kernel_seconds"), expected["kernel_seconds"]
    times = f"{seconds / predicted:.2f}" if seconds else ""
    counts = [str(one.get("launches", "")) for one in (found, expected)]
    counts += [mega(one.get("peak_bytes")) for one in (found, expected)]
    return [unit(seconds), unit(predicted), times, *counts, percentages(expected["bounds"])]


_Comparison = Callable[[Result, Result], list[list[str]]]
_COMPARED: dict[str, tuple[list[str], _Comparison]] = {
    "operators": (["operator, us", "pass", "candidate"], _operators),
    "compiled": (["operator, us", "pass", "candidate"], _operators),
    "networks": (["training step, ms", "variant"], _networks),
    "convolutions": (["convolution, us", "method and pass"], _convolutions),
}
