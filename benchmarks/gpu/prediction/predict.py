"""The rows of the operators part of a GPU run, each with its predicted time and the bound that holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.measurements import cases
from benchmarks.gpu.prediction.bounds import LAUNCH_SECONDS, Prediction, predict
from benchmarks.gpu.prediction.gpus import GPU, GPUS
from benchmarks.gpu.prediction.launches import (
    HeadProblem,
    Launch,
    ShiftProblem,
    backward_launches,
    forward_launches,
    head_backward_launches,
    head_forward_launches,
)
from benchmarks.operator_cases import OperatorCase
from benchmarks.tables import format_table

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Row:
    """As a row of the real run: operator, shape, dtype, pass; its launches in order."""

    operator: str
    shape: str
    dtype: str
    direction: str
    floor_bytes: int
    launches: tuple[Prediction, ...]

    @property
    def seconds(self) -> float:
        return sum(launch.seconds for launch in self.launches)

    @property
    def key(self) -> Key:
        return self.operator, self.shape, self.dtype, self.direction

    @property
    def holds(self) -> str:
        """The bounds of the launches, in order."""
        return ", ".join(launch.holds for launch in self.launches)

    @property
    def title(self) -> str:
        return f"{self.operator} {self.shape} {self.dtype}"


def predicted_rows(gpu: GPU) -> tuple[list[Row], list[str]]:
    """Rows in the order of the run, and the operators that are not predicted."""
    rows: list[Row] = []
    missing: list[str] = []
    for make in cases.all_cases(torch.device("cpu"), dry_run=False):
        found = list(_rows(make, gpu))
        name = make.func.__name__.strip("_")
        if not found and name not in missing:
            missing.append(name)
        rows += found
    return rows, missing


def _rows(make: partial[cases.Case], gpu: GPU) -> Iterator[Row]:
    """Of a case that has not been built: its tensors are not needed."""
    described = _DESCRIPTIONS.get(make.func)
    if described is None:
        return
    operator, shape, dtype, floors, forward, backward = described(make)
    for direction, launches, floor in zip(
        ("forward", "forward_backward"), (forward, [*forward, *backward]), floors, strict=True
    ):
        yield Row(operator, shape, dtype, direction, floor, tuple(predict(launch, gpu) for launch in launches))


_Description = tuple[str, str, str, tuple[int, int], list[Launch], list[Launch]]


def _slice(make: partial[cases.Case]) -> _Description:
    (out_channels, in_channels, size), dtype = make.args[:2]
    case = OperatorCase(out_channels, in_channels, size, cases._BATCH, dtype)
    weight = "float64" if dtype is torch.float64 else "float32"
    problem = ShiftProblem(case.batch, out_channels * in_channels, size, 1, weight, str(dtype).removeprefix("torch."))
    return _shift("fourier_shift_slice", case.label, problem)


def _volume(make: partial[cases.Case]) -> _Description:
    return _shift("fourier_shift", "128x128x3^3", ShiftProblem(8, 128 * 128, 3, 3, "float32", "float32"))


def _shift(operator: str, label: str, problem: ShiftProblem) -> _Description:
    forward = problem.weight_bytes + problem.out_bytes
    floors = forward, 2 * forward + problem.weight_bytes + 12 * problem.samples
    return operator, label, problem.other, floors, forward_launches(problem), backward_launches(problem)


def _head_map(make: partial[cases.Case]) -> _Description:
    (batch, height, width), dtype = make.args[:2]
    name = str(dtype).removeprefix("torch.")
    problem = HeadProblem(batch, height * width, name, dtype is not torch.float32)
    floors = problem.map_bytes, 3 * problem.map_bytes
    launches = head_forward_launches(problem), head_backward_launches(problem)
    return "rotation_head", f"{batch}x4x{height}x{width}", name, floors, *launches


_DESCRIPTIONS = {cases._slice: _slice, cases._volume: _volume, cases._head_map: _head_map}


def format_prediction(name: str) -> str:
    """Markdown: rows as in the report of a run, then every launch with all its bounds."""
    gpu = GPUS[name]
    rows, missing = predicted_rows(gpu)
    introduction = (
        f"# crossd_ops on {gpu.name}: predicted, not measured\n\n"
        f"{gpu.multiprocessors} multiprocessors at {gpu.hertz / 1e9:.2f} GHz, "
        f"{gpu.dram_bytes_per_second / 1e12:.1f} TB/s, {gpu.tensor_flops_per_second / 1e12:.0f} TFLOP/s of bfloat16: "
        f"{gpu.source}. Each launch takes the longest of its bounds and {LAUNCH_SECONDS * 1e6:.1f} us; latency, "
        "occupancy and the last wave of blocks are left out; the rates of arithmetic and of L2 are assumptions.\n\n"
        "## Operators, predicted\n\n"
        "Microseconds in kernels. GB/s: the bytes that must move over that time; `of copy`: over the bandwidth above."
    )
    header = ["operator", "pass", "kernels, predicted", "launches", "GB/s", "of copy", "bounds that hold"]
    body = []
    for row in rows:
        rate = row.floor_bytes / row.seconds
        cells = [row.title, row.direction.replace("_", " + "), f"{row.seconds * 1e6:.1f}", str(len(row.launches))]
        body.append([*cells, f"{rate / 1e9:.0f}", f"{rate / gpu.dram_bytes_per_second:.0%}", row.holds])
    sections = [introduction, format_table(header, body), "## Launches, predicted", _format_launches(rows)]
    sections.append(f"Not predicted: {', '.join(missing)}, compiled operators, training steps.")
    return "\n\n".join(sections) + "\n"


def _format_launches(rows: list[Row]) -> str:
    """Bounds as shares of the time that the bytes take in DRAM; that time over the longest: of bandwidth."""
    names = list(rows[0].launches[0].bounds)
    header = ["kernel", "of", "DRAM us", *(f"{name} %" for name in names[1:]), "holds", "of bandwidth"]
    body = []
    for row in rows:
        if row.direction == "forward":
            continue  # its launches are in the row of both passes, too
        for launch in row.launches:
            dram = launch.bounds["DRAM"]
            shares = [f"{launch.bounds[name] / dram:.0%}" for name in names[1:]]
            body.append([launch.launch.kernel, row.title, f"{dram * 1e6:.2f}", *shares, launch.holds])
            body[-1].append(f"{dram / launch.bounds[launch.holds]:.0%}")
    return format_table(header, body)


def predictions_of(gpu_name: str | None) -> dict[Key, Row]:
    """By what names a row of a run; empty for a GPU whose figures are not here."""
    gpu = next((gpu for gpu in GPUS.values() if gpu_name and gpu.name in gpu_name), None)
    return {row.key: row for row in predicted_rows(gpu)[0]} if gpu else {}


def key_of(row: dict[str, Any]) -> Key:
    """Of a row of a run."""
    return row["operator"], row["shape"], row["dtype"], row["pass"]
