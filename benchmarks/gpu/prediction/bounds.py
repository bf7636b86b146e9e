"""The bounds of a launch on a GPU, from the tables of counts."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.prediction.assumptions import GROUPED_RATE, LAUNCH_SECONDS, PRODUCT_RATE
from benchmarks.gpu.prediction.general_launches import GeneralLaunch
from benchmarks.gpu.prediction.gpus import GPU, LANES, SCHEDULERS, WAVEFRONT_BYTES
from benchmarks.gpu.prediction.launches import Launch
from benchmarks.gpu.prediction.machine_code import ONE_WARP
from benchmarks.gpu.prediction.models import AnyLaunch, LibraryLaunch

TABLE = Path(__file__).resolve().parents[3] / "tests" / "kernels" / "kernel_instructions.json"
BASES = ("counted", "roofline", "grouped convolution")  # what a prediction rests on, the last a guess
_TENSOR_FLOPS = (
    2 * 16 * 8 * 16
)  # of one instruction of a warp, m16n8k16; of TF32's m16n8k8 half as many, at half the rate


@dataclass(frozen=True)
class Prediction:
    launch: AnyLaunch
    bounds: dict[str, float]  # seconds, by what holds the launch up
    part: str = "rest"  # of a network: see trace.py

    @property
    def basis(self) -> str:
        """One of BASES."""
        if isinstance(self.launch, LibraryLaunch):
            return BASES[2] if self.launch.grouped else BASES[1]
        return BASES[0]

    @property
    def holds(self) -> str:
        """The longest bound."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def seconds(self) -> float:
        return self.bounds[self.holds] + LAUNCH_SECONDS.value

    @property
    def moved(self) -> int:
        """Bytes of DRAM."""
        return self.launch.moved


@functools.cache
def read_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def predict(launch: AnyLaunch, gpu: GPU, part: str = "rest", table: dict[str, Any] | None = None) -> Prediction:
    """KeyError: a kernel of crossd_ops that the table has not."""
    if isinstance(launch, LibraryLaunch):
        return Prediction(launch, _bounds_of_library(launch, gpu), part)
    if isinstance(launch, GeneralLaunch):
        return Prediction(launch, _general_bounds(launch, gpu, table or read_table()), part)
    return Prediction(launch, _counted_bounds(launch, gpu, table or read_table()), part)


def _bounds_of_library(launch: LibraryLaunch, gpu: GPU) -> dict[str, float]:
    rate = gpu.multiply_adds_per_second(launch.unit) * PRODUCT_RATE.value
    seconds = launch.multiply_adds / (rate * GROUPED_RATE.value if launch.grouped else rate)
    unit = "tensor" if launch.unit in ("bfloat16", "tf32") else "arithmetic"
    return {"DRAM": launch.moved / gpu.dram_bytes_per_second, unit: seconds}


def _general_bounds(launch: GeneralLaunch, gpu: GPU, table: dict[str, Any]) -> dict[str, float]:
    cycles_per_second = min(gpu.multiprocessors, launch.blocks) * gpu.hertz
    of_step = table["steps"][gpu.architecture][launch.kernel]
    instructions = sum(steps * of_step[str(accesses)] for accesses, steps in launch.steps.items())
    multiply_adds = sum(launch.steps.values()) * (4 if launch.is_complex else 1)
    lanes = gpu.lanes_per_cycle["float64" if launch.is_double else "float32"]
    return {
        "DRAM": launch.moved / gpu.dram_bytes_per_second,
        "L2": (launch.moved + launch.again) / (gpu.l2_bytes_per_cycle * gpu.hertz),
        "load-store": (launch.wavefronts + (launch.moved + launch.again) / WAVEFRONT_BYTES) / cycles_per_second,
        "issue": instructions / SCHEDULERS / cycles_per_second,
        "arithmetic": multiply_adds * LANES / lanes / cycles_per_second,
        "tensor": 0.0,
    }


def _counted_bounds(launch: Launch, gpu: GPU, table: dict[str, Any]) -> dict[str, float]:
    counts = instructions(launch, table["kernels"][gpu.architecture][launch.kernel])
    # Blocks do not spread over multiprocessors, so with fewer of them than there are some have none.
    cycles_per_second = min(gpu.multiprocessors, launch.blocks) * gpu.hertz
    moved = launch.moved
    wavefronts = shared_wavefronts(launch, counts, table) + (moved + launch.again) / WAVEFRONT_BYTES
    arithmetic = max(counts[name] * LANES / lanes for name, lanes in gpu.lanes_per_cycle.items())
    return {
        "DRAM": moved / gpu.dram_bytes_per_second,
        "L2": (moved + launch.again) / (gpu.l2_bytes_per_cycle * gpu.hertz),
        "load-store": wavefronts / cycles_per_second,
        "issue": counts.total() / SCHEDULERS / cycles_per_second,
        "arithmetic": arithmetic / cycles_per_second,
        "tensor": counts["tensor"] * _TENSOR_FLOPS / (gpu.tensor_flops_per_second * gpu.warp_products_rate),
    }


def instructions(launch: Launch, loops: dict[str, dict[str, int]]) -> Counter[str]:
    """Of all warps of a launch, by class."""
    found: Counter[str] = Counter()
    for path, counts in loops.items():
        loop = path.removesuffix(ONE_WARP).removesuffix("/")
        runs = launch.loops.get(loop, launch.loops.get(loop.rpartition("/")[2], 0.0)) if loop else 1.0
        lone_warps = launch.blocks if launch.lone_warps is None else launch.lone_warps
        of_all = (launch.warps if loop == path else lone_warps) * runs / counts.get("iterations", 1)
        for name, count in counts.items():
            if name != "iterations":
                found[name] += count * of_all  # type: ignore[assignment]
    return found


def shared_wavefronts(launch: Launch, counts: Counter[str], table: dict[str, Any]) -> float:
    """As the emulator counted them, with conflicts of banks; without a count one for each instruction."""
    if launch.wavefronts is not None:
        return launch.wavefronts
    found = table["wavefronts"].get(launch.kernel)
    if found is None:
        return float(counts["shared"])
    return float(found["tile"] * launch.tiles + found["sample"] * launch.tile_samples)
