"""The launches of an operator on a problem, as csrc/shift/cuda/launch.cuh and head/cuda/rotation_launch.cuh make them.

Blocks and threads, how often a warp runs through each loop, and the bytes of each array: a test compares them with what
the launchers themselves do in the emulator. Tensors are dense, and aligned to 16 bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_LANES = 32
_WANTED_BLOCKS = _WANTED_WARPS = 1024
_CUBIC3_WARPS, _SUM_THREADS, _SUM_ROWS = 4, 512, 8
_UNROLLED = 4  # iterations of a loop of unknown length in one of the machine code's
_GROUP, _PHASES, _ROWS_GROUP = 32, 5, 16  # samples whose phases are computed at a time, phases of each; K = 5, 7
_WANTED_ROW_TILES, _ROWS_SAMPLE_LANES = 128, 4
_HEAD_THREADS, _HEAD_WANTED_BLOCKS, _HEAD_SMALLEST_PART, _HEAD_CHANNELS = 256, 512, 1024, 4
TYPES = {"float64": ("double", 8), "float32": ("float", 4), "bfloat16": ("BFloat16", 2), "float16": ("Float16", 2)}

# Loops that fast ways do not take: elements moved one by one; what is no loop of ours (turns of an angle over 1e5).
SLOW_LOOPS = re.compile(
    r"(.*/)?(load_(cubic3|rows)_weight\.i|store_elements\.i|bring_(elements|vectors)\.\w+|store_rows_plane\.i|"
    r"store_(cubic3|rows)_grad_weight\.i(/one warp)?|fetch_rows_grad\.i|\w+)"
)


@dataclass(frozen=True)
class Launch:
    """A kernel, and what all its warps do."""

    kernel: str
    blocks: int
    threads: int
    loops: dict[str, float]  # by function and variable, or all loops around: iterations of a warp, in the mean
    arrays: dict[str, int]  # bytes
    again: int = 0  # bytes that are read again by other blocks: from L2
    tiles: int = 0  # of 32 pairs, as often as a warp or a block takes one up
    tile_samples: int = 0  # samples that each of the 32 pairs is worked on for, of all these tiles
    wavefronts: int | None = None  # of shared memory, where the launch alone tells them
    lone_warps: int | None = None  # those that do what one of several warps does; None: one of each block

    @property
    def warps(self) -> int:
        return self.blocks * self.threads // _LANES

    @property
    def moved(self) -> int:
        """Bytes of all arrays."""
        return sum(self.arrays.values())


class ShiftSizes:
    """What follows from the sizes of a Fourier shift; weight and other, the output or its gradient: names of types."""

    samples: int
    pairs: int
    kernel: tuple[int, int, int]
    slices: int
    weight: str
    other: str

    @property
    def plane(self) -> int:
        return self.kernel[1] * self.kernel[2]

    @property
    def accumulate(self) -> str:
        return "double" if self.weight == "float64" else "float"

    @property
    def accumulate_bytes(self) -> int:
        return 8 if self.weight == "float64" else 4

    @property
    def weight_bytes(self) -> int:
        return self.pairs * self.kernel[0] * self.plane * TYPES[self.weight][1]

    @property
    def out_bytes(self) -> int:
        return self.samples * self.pairs * self.slices * self.plane * TYPES[self.other][1]

    @property
    def shift_bytes(self) -> int:
        return self.samples * 3 * self.accumulate_bytes


@dataclass(frozen=True)
class ShiftProblem(ShiftSizes):
    """Of a cubic kernel whose size has kernels of its own."""

    samples: int
    pairs: int
    size: int
    slices: int
    weight: str
    other: str
    tap_major: bool = False  # the output or its gradient: slices, not of float64

    @property
    def kernel(self) -> tuple[int, int, int]:  # type: ignore[override]
        return self.size, self.size, self.size

    @property
    def types(self) -> str:
        return f"{self.accumulate}, {TYPES[self.other][0]}"

    @property
    def chunk(self) -> int:
        """Samples that a warp works on together, K = 3."""
        return 1 if self.slices > 1 else 16 // self.accumulate_bytes

    @property
    def backward_chunk(self) -> int:
        return 1 if self.slices > 1 or self.other == "float64" else 4


def forward_launches(problem: ShiftProblem) -> list[Launch]:
    rows, size = problem.size != 3, problem.size
    warps = size if rows else _CUBIC3_WARPS
    tiles = math.ceil(problem.pairs / (_LANES if rows else _LANES * warps))
    if rows:
        samples = _samples_per_split(problem, tiles, 1, _WANTED_BLOCKS)
    else:
        samples = _samples_per_split(problem, tiles, problem.chunk, _WANTED_BLOCKS // 2)
    splits = math.ceil(problem.samples / samples)
    if rows:
        kernel = f"forward_rows<{problem.types}, {size}>"
        loops = {"forward_rows.sample": samples, "forward_rows.slice": samples * problem.slices}
        loops["compute_rows_taps.task"] = _turns(samples, _ROWS_GROUP, 3, size)
        loops["store_rows_taps.tap"] = samples * problem.slices * size if problem.tap_major else 0
    else:
        kernel = f"forward_cubic3<{problem.types}, {problem.slices}, {str(problem.tap_major).lower()}>"
        loops = {"forward_cubic3.group": math.ceil(samples / _GROUP), "forward_cubic3.chunk": samples / problem.chunk}
        loops["compute_phases.task"] = _turns(samples, _GROUP, _PHASES, _CUBIC3_WARPS)
    tiles_of_32 = math.ceil(problem.pairs / _LANES)
    return [
        Launch(
            kernel,
            tiles * splits,
            warps * _LANES,
            loops,
            {"weight": problem.weight_bytes, "shift": problem.shift_bytes, "out": problem.out_bytes},
            again=(splits - 1) * problem.weight_bytes,
            tiles=tiles_of_32 * splits,
            tile_samples=tiles_of_32 * problem.samples,
        )
    ]


def backward_launches(problem: ShiftProblem) -> list[Launch]:
    """Of the gradients of weight and shift."""
    samples, size = problem.samples, problem.size
    if size != 3:
        kernel, warps, lanes = f"backward_rows<{problem.types}, {size}>", size, _rows_sample_lanes(problem)
        tiles = math.ceil(problem.pairs * lanes / _LANES)
        turns = _turns(samples, _ROWS_GROUP, 3, size)
        turn = math.ceil(samples / lanes) * problem.slices
        loops = {"backward_rows.turn": turn, "compute_rows_taps.task": turns, "write_partial.task": turns}
    else:
        kernel = f"backward_cubic3<{problem.types}, {problem.slices}, {str(problem.tap_major).lower()}>"
        warps = _CUBIC3_WARPS
        sample_warps = _sample_warps(problem)
        tiles = math.ceil(problem.pairs / (_LANES * warps // sample_warps))
        loops = {
            "backward_cubic3.group": math.ceil(samples / _GROUP),
            "backward_cubic3.i": math.ceil(samples / _GROUP),
            "backward_cubic3.chunk": samples / problem.backward_chunk / sample_warps,
            "backward_cubic3.sample": samples / sample_warps,
            "backward_cubic3.slice": samples * problem.slices / sample_warps,
            "compute_phases.task": _turns(samples, _GROUP, _PHASES, warps),
            "write_partial.task": _turns(samples, _GROUP, 3, warps),
            "store_cubic3_grad_weight.other": (sample_warps - 1) / _UNROLLED,
        }
    tiles_of_32 = math.ceil(problem.pairs / _LANES)
    main_tiles = tiles_of_32 * _sample_warps(problem) if size == 3 else tiles
    partial = tiles * problem.shift_bytes
    arrays = {"grad": problem.out_bytes, "weight": problem.weight_bytes, "shift": problem.shift_bytes}
    arrays |= {"grad_weight": problem.weight_bytes, "partial": partial}
    main = Launch(
        kernel, tiles, warps * _LANES, loops, arrays, tiles=main_tiles, tile_samples=tiles_of_32 * samples,
        lone_warps=tiles_of_32,
    )  # fmt: skip
    return [main, sum_launch(problem.accumulate, samples, tiles, problem.shift_bytes)]


def sum_launch(accumulate: str, samples: int, tiles: int, shift_bytes: int) -> Launch:
    """Of the tiles' parts of the shift's gradient."""
    sums = {"sum_partials.tile": tiles / (_SUM_THREADS / _SUM_ROWS)}
    arrays = {"partial": tiles * shift_bytes, "grad_shift": shift_bytes}
    return Launch(f"sum_partials<{accumulate}>", math.ceil(3 * samples / _SUM_ROWS), _SUM_THREADS, sums, arrays)


def _samples_per_split(problem: ShiftProblem, tiles: int, chunk: int, blocks: int) -> int:
    most, wanted = math.ceil(problem.samples / (2 * chunk)), math.ceil(blocks / tiles)
    return math.ceil(math.ceil(problem.samples / max(1, min(wanted, most))) / chunk) * chunk


def _sample_warps(problem: ShiftProblem) -> int:
    warps = math.ceil(problem.pairs / _LANES)
    if warps >= _WANTED_WARPS or problem.samples < 8:
        return 1
    return 2 if warps >= _WANTED_WARPS // 2 or problem.samples < 16 else 4


def _rows_sample_lanes(problem: ShiftProblem) -> int:
    few = math.ceil(problem.pairs / _LANES) < _WANTED_ROW_TILES and problem.samples >= _ROWS_SAMPLE_LANES
    return _ROWS_SAMPLE_LANES if few else 1


def _turns(samples: int, group: int, tasks: int, warps: int) -> float:
    """Iterations of a warp, in the mean, where a block's threads share the tasks of each group of samples."""
    groups = [min(group, samples - first) for first in range(0, samples, group)]
    return sum(math.ceil(tasks * count / _LANES) for count in groups) / warps


@dataclass(frozen=True)
class HeadProblem:
    """A rotation head's map, [samples, 4, pixels], dense."""

    samples: int
    pixels: int
    dtype: str
    channels_last: bool

    @property
    def map_bytes(self) -> int:
        return self.samples * _HEAD_CHANNELS * self.pixels * TYPES[self.dtype][1]

    @property
    def types(self) -> str:
        order = 1 if self.channels_last else 0
        return f"{self.accumulate}, {TYPES[self.dtype][0]}, (PixelOrder){order}"

    @property
    def accumulate(self) -> str:
        return "double" if self.dtype == "float64" else "float"

    @property
    def parts(self) -> int:
        wanted = math.ceil(_HEAD_WANTED_BLOCKS / max(self.samples, 1))
        of_part = math.ceil(self.pixels / max(1, min(wanted, math.ceil(self.pixels / _HEAD_SMALLEST_PART))))
        return math.ceil(self.pixels / of_part)

    @property
    def packs_of_thread(self) -> float:
        """Vectors of 16 bytes that each thread of a block reads, in the mean."""
        elements = _HEAD_CHANNELS * self.pixels / self.parts
        return elements * TYPES[self.dtype][1] / 16 / _HEAD_THREADS


def head_forward_launches(problem: HeadProblem) -> list[Launch]:
    blocks = problem.samples * problem.parts
    sums = problem.samples * 24 * (8 if problem.dtype == "float64" else 4)  # statistics, and the shift
    loops = {"pool_run.i": problem.packs_of_thread, "join_lanes.distance": math.log2(_LANES)}
    pool = Launch(
        f"rotation_head_pool<{problem.types}>", blocks, _HEAD_THREADS, loops, {"map": problem.map_bytes, "sums": sums}
    )
    if problem.parts == 1:
        return [pool]
    loops = {"join_parts.part": problem.parts * _HEAD_CHANNELS / _LANES}
    kernel = f"rotation_head_finish<{problem.accumulate}>"
    return [pool, Launch(kernel, problem.samples, _LANES, loops, {"partial": sums * problem.parts, "sums": sums})]


def head_backward_launches(problem: HeadProblem) -> list[Launch]:
    loops = {"gradient_of_run.i": problem.packs_of_thread}
    arrays = {"map": problem.map_bytes, "grad_map": problem.map_bytes}
    kernel = f"rotation_head_gradient<{problem.types}>"
    return [Launch(kernel, problem.samples * problem.parts, _HEAD_THREADS, loops, arrays)]
