"""The launches of the shift for any kernel sizes, as csrc/shift/cuda/general.cuh works.

A step is one product of a tap and a value in shared memory, on the way along an axis. How often they happen, and what
they read and write, is the arithmetic of the source: a test holds the wavefronts against those that the emulator has
counted. Of instructions those of the steps count, by the machine code; what an element costs beside its steps is left
out, for the compiler cuts loops over elements into pieces that no line of the source names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.gpu.prediction.launches import Launch, ShiftSizes, sum_launch

_THREADS, _LANES, _WANTED_BLOCKS = 256, 32, 1024
_TAP_ELEMENTS, _SUM_ELEMENTS, _BUDGET = 3 * 4 * 15, 8 * 8 * 3, 48 * 1024 // 8
_WARPS, _GROUP = 8, 8  # of a block; samples whose sums it writes at a time


@dataclass(frozen=True)
class GeneralLaunch:
    """A kernel in loops over sizes that it is told."""

    kernel: str
    blocks: int
    threads: int
    arrays: dict[str, int]  # bytes
    again: int  # bytes that are read again by other blocks: from L2
    wavefronts: int  # of shared memory, where no banks conflict
    steps: dict[int, int]  # of warps, by the accesses of shared memory that each makes
    is_complex: bool
    is_double: bool

    @property
    def moved(self) -> int:
        """Bytes of all arrays."""
        return sum(self.arrays.values())


@dataclass(frozen=True)
class GeneralProblem(ShiftSizes):
    """Of a kernel of any sizes."""

    samples: int
    pairs: int
    kernel: tuple[int, int, int]
    slices: int
    weight: str
    other: str

    @property
    def is_complex(self) -> bool:
        return sum(size % 2 == 0 for size in self.kernel) >= 2

    def tile_pairs(self, *, backward: bool) -> int:
        volume = self.kernel[0] * self.plane
        fixed = _TAP_ELEMENTS + (_SUM_ELEMENTS if backward else 0)
        of_pair = 2 * volume + 7 * self.plane if backward else volume + 4 * self.plane
        fitting, useful = (_BUDGET - fixed) // of_pair, 4 * _THREADS // self.plane
        return max(1, min(fitting, useful, max(self.pairs // _WANTED_BLOCKS, 1)))

    def warps_of_elements(self, tile_pairs: int) -> int:
        """Of all tiles, those of a block that have an element (pair, y, z), each time that it goes through them."""
        whole, rest = divmod(self.pairs, tile_pairs)
        return whole * math.ceil(tile_pairs * self.plane / _LANES) + math.ceil(rest * self.plane / _LANES)

    @property
    def warps_of_taps(self) -> int:
        """Of a block, that compute taps: thread 15 * axis + n the n-th of an axis."""
        return math.ceil((30 + self.kernel[2]) / _LANES)

    def launch(
        self, direction: str, blocks: int, arrays: dict[str, int], again: int, wavefronts: int, steps: dict[int, int]
    ) -> GeneralLaunch:
        kernel = f"{direction}_general<{self.accumulate}, {str(self.is_complex).lower()}>"
        is_double = self.accumulate == "double"
        return GeneralLaunch(kernel, blocks, _THREADS, arrays, again, wavefronts, steps, self.is_complex, is_double)


def general_forward_launches(problem: GeneralProblem) -> list[GeneralLaunch]:
    tile_pairs = problem.tile_pairs(backward=False)
    tiles = math.ceil(problem.pairs / tile_pairs)
    splits = max(1, min(math.ceil(_WANTED_BLOCKS / tiles), problem.samples, 65535))
    warps, (k0, k1, k2) = problem.warps_of_elements(tile_pairs), problem.kernel
    # Taps and values of each step; what is kept after two axes. The weight has no imaginary part.
    costs = 3 * k0 + 4 * (k1 + k2) + 4 if problem.is_complex else 2 * (k0 + k1 + k2) + 2
    slices = problem.samples * problem.slices
    wavefronts = warps * (slices * costs + splits * k0) + 4 * problem.warps_of_taps * tiles * problem.samples
    arrays = {"weight": problem.weight_bytes, "shift": problem.shift_bytes, "out": problem.out_bytes}
    of_element = {3: k0, 4: k1 + k2} if problem.is_complex else {2: k0 + k1 + k2}
    steps = {accesses: warps * slices * count for accesses, count in of_element.items()}
    again = (splits - 1) * problem.weight_bytes
    return [problem.launch("forward", tiles * splits, arrays, again, wavefronts, steps)]


def general_backward_launches(problem: GeneralProblem) -> list[GeneralLaunch | Launch]:
    """Of the gradients of weight and shift."""
    tile_pairs = problem.tile_pairs(backward=True)
    tiles, warps = math.ceil(problem.pairs / tile_pairs), problem.warps_of_elements(tile_pairs)
    k0, k1, k2 = problem.kernel
    # The same steps as forward but for the last axis, their adjoints, three derivatives, and what is added to gW.
    if problem.is_complex:
        reads, writes = 9 * k0 + 12 * k1 + 7 * k2 + 3, 7 + 2 * k0
    else:
        reads, writes = 6 * k0 + 6 * k1 + 4 * k2 + 2, 4 + k0
    slices, groups = problem.samples * problem.slices, math.ceil(problem.samples / _GROUP)
    wavefronts = warps * (slices * (reads + writes) + 3 * k0)  # the weight, and its gradient: zeros, then the result
    wavefronts += tiles * problem.samples * (4 * problem.warps_of_taps + 3 * _WARPS) + tiles * groups * _WARPS
    partial = tiles * problem.shift_bytes
    arrays = {"grad": problem.out_bytes, "weight": problem.weight_bytes, "shift": problem.shift_bytes}
    arrays |= {"grad_weight": problem.weight_bytes, "partial": partial}
    of_element = {3: 2 * k0 + k2, 4: 3 * k1 + k2, 5: k0} if problem.is_complex else {2: 2 * k0 + 3 * k1 + 2 * k2, 3: k0}
    steps = {accesses: warps * slices * count for accesses, count in of_element.items()}
    main = problem.launch("backward", tiles, arrays, 0, wavefronts, steps)
    return [main, sum_launch(problem.accumulate, problem.samples, tiles, problem.shift_bytes)]
