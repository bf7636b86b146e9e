"""What each launch of a CUDA kernel asks of memory, counted in the emulator: sectors, bank conflicts, bytes, barriers.

Counted is what the lanes of each warp ask for together, before any cache: 32-byte sectors of global memory, wavefronts
of shared memory. An asynchronous copy is a read of global and a write of shared memory. Lanes that branch apart are put
together again by a model of the device (``meter/lockstep.h``); ``Instruction.partial`` says how many requests lacked
lanes. The machine code is that of g++, with loops as they stand in the source: it may read again what nvcc keeps in a
register, or the reverse.
"""

from __future__ import annotations

import ctypes
import functools
import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .build import CSRC, EMULATOR
from .harness import BackwardProblem, EmulatedBackend, ForwardProblem
from .rotation_head_harness import EmulatedRotationHead, RotationHeadBackward, RotationHeadForward

SECTOR_BYTES = 32


@dataclass(frozen=True)
class Instruction:
    """A line of code that accesses an array, with all requests of all warps that it made to it."""

    array: str  # "shared": shared memory
    write: bool
    place: str  # FILE:LINE, from csrc
    callers: tuple[str, ...]  # the places that inlined it, the nearest first
    size: int  # bytes, of a lane
    requests: int
    partial: int  # of them, those that lacked lanes
    bytes: int  # asked for by all lanes
    units: int  # sectors, of shared memory wavefronts
    ideal: int  # those that the distinct bytes of each request would fill


@dataclass(frozen=True)
class Traffic:
    """What a launch read, or wrote, of one array in global memory."""

    array: str
    write: bool
    size: int  # bytes of the tensor
    bytes: int  # asked for by lanes
    sectors: int  # asked for by requests
    block_sectors: int  # with each block asking only once for each
    distinct_sectors: int
    distinct_bytes: int  # what was asked for, once

    @property
    def floor(self) -> int:
        """Bytes of the sectors that hold what was asked for: what memory gives, or takes, at least."""
        return self.distinct_sectors * SECTOR_BYTES

    @property
    def l2(self) -> int:
        """Bytes between L2 and the blocks, each of which has L1 keep its own, or L2 join what it writes in parts."""
        return self.block_sectors * SECTOR_BYTES

    @property
    def l1(self) -> int:
        """Bytes of all requests: what L1 gives."""
        return self.sectors * SECTOR_BYTES


@dataclass(frozen=True)
class Launch:
    kernel: str  # with its template arguments
    grid: tuple[int, int, int]  # of blocks
    threads: int  # of a block
    dynamic_shared: int  # bytes
    barriers: int  # of all blocks
    tensor_instructions: int  # of all warps
    instructions: tuple[Instruction, ...]
    arrays: tuple[Traffic, ...]

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    def traffic(self, array: str, write: bool = False) -> Traffic:
        return next(one for one in self.arrays if (one.array, one.write) == (array, write))

    def shared(self, write: bool) -> tuple[int, int]:
        """Wavefronts of shared memory, and the ideal."""
        of_shared = [one for one in self.instructions if one.array == "shared" and one.write == write]
        return sum(one.units for one in of_shared), sum(one.ideal for one in of_shared)


class Meter:
    """Counts for the launches of one library that was compiled as ``compile_program(..., "meter", shared=True)``."""

    def __init__(self, path: Path, csrc: Path = CSRC) -> None:
        self.path, self._csrc, self._library = path, csrc, ctypes.CDLL(str(path))
        self._library.meter_stop.restype = ctypes.c_char_p

    def measure(self, call: Callable[[], object], **tensors: torch.Tensor) -> tuple[Launch, ...]:
        """The launches of ``call()``; only accesses to these tensors and to shared memory count."""
        held = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
        sizes = [_extent(tensor) for tensor in held.values()]
        self._library.meter_start(
            len(held),
            (ctypes.c_char_p * len(held))(*(name.encode() for name in held)),
            (ctypes.c_size_t * len(held))(*(tensor.data_ptr() for tensor in held.values())),
            (ctypes.c_size_t * len(held))(*sizes),
        )
        try:
            call()
        finally:
            text = self._library.meter_stop().decode()
        return self._launches(
            text, {name: min(size, held[name].nbytes) for name, size in zip(held, sizes, strict=True)}
        )

    def _launches(self, text: str, sizes: dict[str, int]) -> tuple[Launch, ...]:
        launches = [part.splitlines() for part in text.split("launch\t")[1:]]
        rows = [[line.split("\t") for line in lines] for lines in launches]
        addresses = {int(lines[0][0]) for lines in rows}
        addresses |= {int(row[3]) for lines in rows for row in lines if row[0] == "instruction"}
        frames = _frames(self.path, tuple(sorted(addresses)))
        return tuple(self._launch(head, rest, sizes, frames) for head, *rest in rows)

    def _launch(self, head: list[str], rows: list[list[str]], sizes: dict[str, int], frames: Frames) -> Launch:
        kernel, x, y, z, *counts = map(int, head)
        found: dict[tuple[object, ...], list[int]] = {}  # machine code may have a line several times
        arrays = []
        for kind, array, *fields in rows:
            write, *numbers = map(int, fields)
            if kind == "array":
                arrays.append(Traffic(array, bool(write), sizes[array], *numbers))
                continue
            address, size, *costs = numbers
            place, *callers = self._places(frames[address])
            key = (array, bool(write), place, tuple(callers), size)
            found[key] = [a + b for a, b in zip(found.get(key, [0] * len(costs)), costs, strict=True)]
        instructions = tuple(Instruction(*key, *costs) for key, costs in sorted(found.items()))
        return Launch(_short_name(frames[kernel][-1][0]), (x, y, z), *counts, instructions, tuple(arrays))

    def _places(self, frames: list[tuple[str, str]]) -> list[str]:
        """Of the kernels' own code: the emulator's vector types are left out."""
        places = [re.sub(r" \(discriminator \d+\)", "", place) for _, place in frames]
        return [
            place.removeprefix(f"{self._csrc}/").removeprefix(f"{EMULATOR}/")
            for place in places
            if not place.startswith(f"{EMULATOR / 'cuda_on_cpu'}/")
        ]


Frames = dict[int, list[tuple[str, str]]]  # by address: function and place, the innermost first


@functools.cache
def _frames(library: Path, addresses: tuple[int, ...]) -> Frames:
    command = ["addr2line", "-e", str(library), "--functions", "--inlines", "--demangle", "--addresses"]
    text = "\n".join(map(hex, addresses))
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    frames: Frames = {}
    for part in re.split(r"^(?=0x)", process.stdout, flags=re.MULTILINE)[1:]:
        address, *lines = part.splitlines()
        frames[int(address, 16)] = list(zip(lines[::2], lines[1::2], strict=True))
    return frames


def _short_name(function: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    name = re.sub(r"^void |crossd_ops::(cuda::)?", "", function)
    return f"{name.rsplit('>(', 1)[0]}>" if ">(" in name else name.split("(")[0]


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to the last element."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


@dataclass(frozen=True)
class ShiftCase:
    """A Fourier shift to be counted, of dense tensors; whole: every slice, not the middle one alone."""

    samples: int
    out_channels: int
    in_channels: int
    kernel: tuple[int, int, int]
    weight: torch.dtype = torch.float32
    other: torch.dtype = torch.float32  # of the output, or its gradient
    whole: bool = False
    misaligned: bool = False  # weight and gradient begin one element past a boundary of 16 bytes
    tap_major: bool = False  # the output, or its gradient

    def measure(self, direction: str, csrc: Path = CSRC) -> tuple[Launch, ...]:
        """``direction``: "forward" or "backward", for weight and shift."""
        backend = _metered_shift(csrc)
        weight = _random((self.out_channels, self.in_channels, *self.kernel), self.weight, self.misaligned)
        shift = torch.rand(self.samples, 3, dtype=torch.promote_types(self.weight, torch.float32))
        index = None if self.whole else self.kernel[0] // 2
        if direction == "forward":
            backend.fourier_shift(weight, shift, 0, index, self.other, self.tap_major)
        else:
            taps = self.kernel if self.whole else self.kernel[1:]
            channels = (self.out_channels, self.in_channels)
            sizes = (self.samples, *taps, *channels) if self.tap_major else (self.samples, *channels, *taps)
            grad = _random(sizes, self.other, self.misaligned)
            if self.tap_major:
                grad = grad.movedim((-2, -1), (1, 2))
            backend.fourier_shift_backward(grad, weight, shift, 0, index, True, True)
        return backend.launches


@dataclass(frozen=True)
class HeadCase:
    """The pooling of a rotation head's map to be counted."""

    samples: int
    rows: int
    columns: int
    map: torch.dtype = torch.float32
    channels_last: bool = False
    misaligned: bool = False  # the map begins one element past a boundary of 16 bytes

    def measure(self, direction: str, csrc: Path = CSRC) -> tuple[Launch, ...]:
        """``direction``: "forward" or "backward"."""
        head = _metered_head(csrc)
        if self.channels_last:
            sizes = (self.samples, self.rows, self.columns, 4)
            map = _random(sizes, self.map, self.misaligned).permute(0, 3, 1, 2)
        else:
            map = _random((self.samples, 4, self.rows, self.columns), self.map, self.misaligned)
        shift, statistics = head.rotation_head(map, False)
        if direction == "backward":
            head.rotation_head_backward(torch.ones_like(shift), map, statistics, False)
        return head.launches


class _MeteredShift(EmulatedBackend):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, direction: str, problem: ForwardProblem | BackwardProblem, **tensors: torch.Tensor) -> None:
        run = functools.partial(super()._run, direction, problem)
        self.launches = self._meter.measure(run, **tensors)


class _MeteredHead(EmulatedRotationHead):
    launches: tuple[Launch, ...] = ()  # of the last call

    def __init__(self, csrc: Path) -> None:
        super().__init__(csrc, "meter")
        self._meter = Meter(self.path, csrc)

    def _run(self, operator: str, problem: RotationHeadForward | RotationHeadBackward, **tensors: torch.Tensor) -> None:
        run = functools.partial(super()._run, operator, problem)
        self.launches = self._meter.measure(run, **tensors)


@functools.cache
def _metered_shift(csrc: Path) -> _MeteredShift:
    return _MeteredShift(csrc)


@functools.cache
def _metered_head(csrc: Path) -> _MeteredHead:
    return _MeteredHead(csrc)


def _random(sizes: tuple[int, ...], dtype: torch.dtype, misaligned: bool) -> torch.Tensor:
    elements = math.prod(sizes)
    return torch.randn(elements + 16, dtype=torch.float32).to(dtype)[int(misaligned) :][:elements].view(sizes)
