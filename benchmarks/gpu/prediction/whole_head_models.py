"""The whole head's launches, as csrc/head/cuda/head_launch.cuh makes them, of the problem that a call states."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.models import AnyLaunch, model
from benchmarks.gpu.prediction.trace import Array, Call

_TILE, _HIDDEN, _WARPS, _THREADS = 32, 16, 8, 256
_BLOCKS, _WANTED_ITEMS = 256, 1024
_MOMENTS, _SUMS, _POOLED = 3 * 16, 6 * 16, 4 * 3  # floats that a block, or a part of a sample, leaves
_FEW, _FEW_MOMENTS, _FEW_SUMS = 3, 16, 10 * 16  # channels, and what a block leaves of them


@dataclass(frozen=True)
class WholeHeadProblem:
    """The head of a layer, of dense float32 parameters. packed: channels-last, in whole vectors."""

    samples: int
    channels: int
    pixels: int
    dtype: str
    packed: bool
    beside: bool = False  # another gradient of the input is added to it
    need_input: bool = True  # whether that of the input is wanted
    tile_stays: bool = False  # in shared memory, for the gradient

    @property
    def chunks(self) -> int:
        return math.ceil(self.channels / _TILE)

    @property
    def straight(self) -> bool:
        """Whether the input's vectors are operands of products as they lie."""
        return self.on_tensor_cores and self.packed and self.chunks <= 2 * _WARPS

    @property
    def ways(self) -> int:
        of_warp = 2 if self.straight and not self.tile_stays else 1
        return min(_WARPS, 1 << (math.ceil(self.chunks / of_warp) - 1).bit_length())

    @property
    def few(self) -> bool:
        """Whether kernels of their own take the channels."""
        return self.channels <= _FEW

    @property
    def slabs(self) -> int:
        """Times that the chunks that a block has at once are in the channels."""
        return math.ceil(self.chunks / self.ways)

    @property
    def parts(self) -> int:
        """Of a sample, whole tiles."""
        tile = _TILE * _WARPS // self.ways
        of_part = math.ceil(math.ceil(self.pixels / math.ceil(_WANTED_ITEMS / self.samples)) / tile) * tile
        return math.ceil(self.pixels / of_part)

    @property
    def blocks(self) -> int:
        return min(self.samples * self.parts, _BLOCKS)

    @property
    def ranges(self) -> int:
        """Of pixels of one sample, that blocks have."""
        each, more = divmod(self.samples * self.parts, self.blocks)
        firsts = [each * block + min(block, more) for block in range(self.blocks + 1)]
        return sum((last - 1) // self.parts - first // self.parts + 1 for first, last in itertools.pairwise(firsts))

    @property
    def on_tensor_cores(self) -> bool:
        return self.dtype == "bfloat16"

    @property
    def stays(self) -> bool:
        """Whether a warp has one chunk of channels alone."""
        return self.chunks <= self.ways

    @property
    def vectors(self) -> float:
        """Of channels of a pixel in shared memory, that a warp works on."""
        return math.ceil(self.channels / (8 if self.on_tensor_cores else 4)) / self.ways

    @property
    def input_bytes(self) -> int:
        return self.samples * self.channels * self.pixels * launches.TYPES[self.dtype][1]

    @property
    def weight_bytes(self) -> int:
        return 4 * _HIDDEN * self.channels

    def launch_few(self, kernel: str, loops: dict[str, float], **arrays: int) -> launches.Launch:
        """One for few channels."""
        tiles = self.samples * math.ceil(self.pixels / _THREADS) / self.blocks
        ranges = self.ranges / self.blocks
        named = {f"{kernel}.item": ranges, f"{kernel}.left": tiles, "advance.while": 0.0}
        # Of 1024 pixels at once, of which a range need not be full.
        named |= {"write_few_moments.item": ranges, "write_few_moments.left": max(tiles / 4, ranges)}
        kernel = f"{kernel}<{launches.TYPES[self.dtype][0]}>"
        arrays = {"input": self.input_bytes, "weight1": self.weight_bytes, **arrays}
        return launches.Launch(kernel, self.blocks, _THREADS, named | loops, arrays)

    def launch(self, kernel: str, loops: dict[str, float], slabs: int = 1, **arrays: int) -> launches.Launch:
        """One that makes the hidden channels, with what it does besides."""
        tile = _TILE * _WARPS // self.ways
        tiles = self.samples * math.ceil(self.pixels / tile) / self.blocks
        chunks, pixels = self.chunks / self.ways, 4 / self.ways  # pixels: of the quarters of a tile, a warp's turns
        of_all = {"item": self.ranges / self.blocks, "left": tiles, "advance.while": 0.0, "write_rows.i": 2.0}
        of_all |= {"for_each_pixel.pixel": tiles * pixels, "for_each_pixel.other": tiles * pixels * self.ways}
        of_all |= {"add_vectors.chunk" if self.straight else "add_tiles.chunk": tiles * chunks}
        of_all |= self._loads(tiles * chunks)
        if not self.on_tensor_cores:
            of_all["add_hidden.channel"] = tiles * self.vectors
        named = {name if "." in name else f"{kernel}.{name}": count for name, count in (of_all | loops).items()}
        once = self.straight or self.stays
        weights = (self.blocks * slabs * (1 if once else math.ceil(tiles)) - 1) * self.weight_bytes
        kernel = f"{kernel}<{launches.TYPES[self.dtype][0]}>"
        return launches.Launch(
            kernel,
            self.blocks * slabs,
            _THREADS,
            named,
            {"input": self.input_bytes, "weight1": self.weight_bytes, **arrays},
            again=weights + (slabs if slabs > 1 else 0) * self.input_bytes,  # by each slab, and its own once more
        )

    def _loads(self, chunks: float) -> dict[str, float]:
        """Of weights and tiles: loops that a warp goes through with so many chunks of channels of its tiles."""
        if self.straight:
            own = self.chunks / _WARPS
            return {"HeadTiles.chunk": own, "HeadTiles.chunk/load_weights.row": 8 * own, "load_weights.row": 0.0}
        rows = {"load_weights.row": 8.0} if self.on_tensor_cores else {"load_weights.h": 4.0}
        of_tile = {"load_tile.i": 2 * chunks} if self.packed else {"load_tile.channel": chunks * self.vectors}
        return {name: count * (1 if self.stays else chunks) for name, count in rows.items()} | of_tile


def forward_launches(problem: WholeHeadProblem, *, training: bool) -> list[launches.Launch]:
    moments = 4 * problem.blocks * (_FEW_MOMENTS if problem.few else _MOMENTS)
    pooled = 4 * problem.samples * problem.parts * _POOLED
    join = "join_few_moments.block" if problem.few else "join_moments.block"
    loops = {join: problem.blocks / _HIDDEN if training else 0.0, "join_lanes.distance": 3.0}
    loops["write_pooled.i"] = problem.ranges / problem.blocks  # at most once for each range
    tickets = 4 * problem.samples if training else 0
    resets = {"reset_tickets.sample": math.ceil(problem.samples / _THREADS) / problem.blocks}
    of_samples = 4 * problem.samples * 15  # statistics, and the shift
    read = (moments if training else 0) + pooled + tickets
    parts = {"join_parts.part": problem.parts * 4 / 32}
    if training:  # by the last block of each sample, of whose ranges the model takes each for it
        loops |= parts
    results = {"partial": read, "sums": of_samples} if training else {"partial": read}
    if problem.few:
        statistics = problem.launch_few("head_moments_few", resets, partial=moments + tickets)
        pool = problem.launch_few("head_pool_few", loops, **results)
    else:
        statistics = problem.launch("head_moments", resets, partial=moments + tickets)
        pool = problem.launch("head_pool", loops, **results)
    if training:
        return [statistics, pool]
    arrays = {"partial": pooled, "sums": of_samples}
    return [pool, launches.Launch("rotation_head_finish<float>", problem.samples, 32, parts, arrays)]


def backward_launches(problem: WholeHeadProblem, *, training: bool) -> list[launches.Launch]:
    """Of every gradient of the parameters."""
    if problem.few and not problem.need_input:
        return _few_backward_launches(problem)
    sums, columns = 4 * problem.blocks * _SUMS, problem.chunks * _TILE
    first = problem.launch("head_sums", {"thread": 64 * 3 / _WARPS}, partial=sums)
    again = 4 * problem.blocks * 32 if training else 0  # of the sums, which every block reads
    loops = {"join_sums.block": problem.blocks / _WARPS if training else 0.0}
    problem = replace(problem, tile_stays=True)
    blocks, slabs = problem.blocks, problem.slabs
    weights = 4 * blocks * _HIDDEN * columns
    tiles = problem.samples * math.ceil(problem.pixels / (_TILE * _WARPS // problem.ways)) / blocks
    of_warp = problem.chunks / problem.ways / slabs  # chunks of channels of its own, in the mean
    vectors = tiles * math.ceil(problem.channels / 4) / problem.ways / slabs
    loops |= {"write_grad_weight.i": problem.ways / 2, "write_grad_weight.warp": _WARPS / 2}
    if not problem.on_tensor_cores:
        loops |= {"add_grad_weight.pixel": _TILE * tiles * of_warp, "make_grad_input.channel": vectors}
    if not problem.packed:
        loops["store_tile.channel"] = vectors
    elif not problem.on_tensor_cores:
        loops["store_tile.i"] = 2 * tiles * of_warp
    # Weights and tile again, where others came after them.
    inner = "head_gradient.item/head_gradient.left"
    if problem.stays:
        names = ("load_weights.h", "load_weights.row", "load_tile.i", "load_tile.channel")
        loops |= {f"{inner}/{name}": 0.0 for name in names}
    elif problem.straight:
        loops[f"{inner}/load_tile.i"] = 2 * tiles * of_warp
    if not problem.need_input:
        loops |= {"make_grad_input.channel": 0.0, "store_tile.i": 0.0, "store_tile.channel": 0.0}
    arrays = {
        "grad_input": problem.input_bytes if problem.need_input else 0,
        "beside": problem.input_bytes if problem.beside else 0,
    }
    main = problem.launch("head_gradient", loops, slabs, partial=weights + again, **arrays)
    count = (_SUMS + _HIDDEN * columns) // 32 + 1
    return [first, main, _join_launch(problem, "head_join<double>", count, sums + weights)]


def _few_backward_launches(problem: WholeHeadProblem) -> list[launches.Launch]:
    sums = 4 * problem.blocks * _FEW_SUMS
    turns = 4 * problem.samples * math.ceil(problem.pixels / _THREADS) / problem.blocks
    first = problem.launch_few("head_sums_few", {"head_sums_few.i": turns}, partial=sums)
    count = _FEW_SUMS // 32 + 1
    return [first, _join_launch(problem, "head_join_few<double>", count, sums)]


def _join_launch(problem: WholeHeadProblem, kernel: str, count: int, partial: int) -> launches.Launch:
    loops = {
        "sum_columns.block": problem.blocks / _WARPS,
        "grad_of_few_weights.i": float(problem.channels),
        "write_grad_bias2.sample": math.ceil(problem.samples / _THREADS) / count,
        "write_grad_bias2.thread": _THREADS / _WARPS / count,
    }
    arrays = {"partial": partial, "grad_weight1": problem.weight_bytes}
    return launches.Launch(kernel, count, _THREADS, loops, arrays)


def _whole_head_problem(call: Call) -> WholeHeadProblem:
    input: Array = call["input"]
    samples, channels, *pixels = input.sizes
    packed = input.channels_last and channels * input.item_bytes % 16 == 0
    beside = call.arguments.get("grad_beside") is not None
    need_input = call.arguments.get("need_input", True)
    return WholeHeadProblem(samples, channels, math.prod(pixels), input.dtype, packed, beside, need_input)


@model("crossd_ops.predict_shift")
def predict_shift(call: Call) -> list[AnyLaunch]:
    return [*forward_launches(_whole_head_problem(call), training=call["mean"] is None)]


@model("crossd_ops.predict_shift_backward")
def predict_shift_backward(call: Call) -> list[AnyLaunch]:
    return [*backward_launches(_whole_head_problem(call), training=call["training"])]
