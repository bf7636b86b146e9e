"""The bounds of a launch on a GPU, from the tables of counts."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.prediction.gpus import GPU, LANES, SCHEDULERS, WAVEFRONT_BYTES
from benchmarks.gpu.prediction.launches import Launch
from benchmarks.gpu.prediction.machine_code import ONE_WARP

TABLE = Path(__file__).resolve().parents[3] / "tests" / "kernels" / "kernel_instructions.json"
LAUNCH_SECONDS = 2.5e-6  # what the shortest kernel takes: an assumption, for all GPUs
_TENSOR_FLOPS = 2 * 16 * 8 * 16  # of one instruction of a warp, m16n8k16


@dataclass(frozen=True)
class Prediction:
    launch: Launch
    bounds: dict[str, float]  # seconds, by what holds the launch up

    @property
    def holds(self) -> str:
        """The longest bound."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def seconds(self) -> float:
        return self.bounds[self.holds] + LAUNCH_SECONDS


@functools.cache
def read_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def predict(launch: Launch, gpu: GPU, table: dict[str, Any] | None = None) -> Prediction:
    """KeyError: the table has not the kernel."""
    table = table or read_table()
    counts = instructions(launch, table["kernels"][gpu.architecture][launch.kernel])
    # Blocks do not spread over multiprocessors, so with fewer of them than there are some have none.
    cycles_per_second = min(gpu.multiprocessors, launch.blocks) * gpu.hertz
    moved = sum(launch.arrays.values())
    wavefronts = shared_wavefronts(launch, counts, table) + (moved + launch.again) / WAVEFRONT_BYTES
    arithmetic = max(counts[name] * LANES / lanes for name, lanes in gpu.lanes_per_cycle.items())
    return Prediction(
        launch,
        {
            "DRAM": moved / gpu.dram_bytes_per_second,
            "L2": (moved + launch.again) / (gpu.l2_bytes_per_cycle * gpu.hertz),
            "load-store": wavefronts / cycles_per_second,
            "issue": counts.total() / SCHEDULERS / cycles_per_second,
            "arithmetic": arithmetic / cycles_per_second,
            "tensor": counts["tensor"] * _TENSOR_FLOPS / gpu.tensor_flops_per_second,
        },
    )


def instructions(launch: Launch, loops: dict[str, dict[str, int]]) -> Counter[str]:
    """Of all warps of a launch, by class."""
    found: Counter[str] = Counter()
    for path, counts in loops.items():
        runs = launch.loops.get(path.rpartition("/")[2], 0.0) if path else 1.0
        of_all = launch.blocks if path == ONE_WARP else launch.warps * runs / counts.get("iterations", 1)
        for name, count in counts.items():
            if name != "iterations":
                found[name] += count * of_all  # type: ignore[assignment]
    return found


def shared_wavefronts(launch: Launch, counts: Counter[str], table: dict[str, Any]) -> float:
    """As the emulator counted them, with conflicts of banks; without a count one for each instruction."""
    found = table["wavefronts"].get(launch.kernel)
    if found is None:
        return float(counts["shared"])
    return float(found["tile"] * launch.tiles + found["sample"] * launch.tile_samples)
