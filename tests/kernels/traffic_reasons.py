"""Why arrays are moved more than once: between L2 and the blocks, since several of them need the same, as many as
follow from how a launch divides its work; and within a block, whose threads ask L1 for it again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from emulator.columns_metering import ColumnsCase
from emulator.cuda_head_metering import WholeHeadCase
from emulator.metering import SECTOR_BYTES, HeadCase, ShiftCase
from emulator.shifted_columns_metering import ShiftedColumnsCase
from emulator.tiles_kernels_metering import TilesKernelsCase
from emulator.tiles_metering import TilesCase

Case = ShiftCase | HeadCase | WholeHeadCase | ColumnsCase | TilesCase | TilesKernelsCase | ShiftedColumnsCase
Place = tuple[int, ...]  # a pixel, or an element of a kernel, by its coordinates

LIMIT = 1.05  # of the bytes that must be moved
TILE_CHANNELS, STEP_PIXELS = 64, 32  # csrc/convolution/tiles_problem.h, tiles_kernels_problem.h
COLUMNS_ROWS, COLUMNS_BYTES = 32, 128  # csrc/convolution/cuda/columns.cuh: rows of a tile, bytes of each
PART_ELEMENTS = 1024  # csrc/convolution/shifted_columns/problem.h: of float32, that a block has


@dataclass(frozen=True)
class Plan:
    """A launch; across and along: blocks of the two axes of its grid."""

    case: Case
    kernel: str
    across: int
    along: int

    @property
    def blocks(self) -> int:
        return self.across * self.along

    @property
    def last_argument(self) -> int:
        """Of the kernel's template: pixels of a tile, or chunks of its columns."""
        return int(self.kernel.rstrip(">").split(", ")[-1])


@dataclass(frozen=True)
class Window:
    """What a convolution sees at its pixels, between borders that keep the size."""

    side: int
    kernel: int
    stride: int = 1
    axes: int = 2

    @property
    def taps(self) -> list[Place]:
        return [*itertools.product(range(self.kernel), repeat=self.axes)]

    @property
    def result(self) -> int:
        return (self.side - 1) // self.stride + 1

    @property
    def pixels(self) -> list[Place]:
        return [*itertools.product(range(self.result), repeat=self.axes)]

    def seen(self, pixel: Place, tap: Place) -> Place | None:
        """Where a tap sees the image. Behind its coordinates it may have a channel."""
        place = [at * self.stride - self.kernel // 2 + step for at, step in zip(pixel, tap[: self.axes], strict=True)]
        return (*place, *tap[self.axes :]) if all(0 <= at < self.side for at in place) else None

    def seeing(self, pixel: Place, tap: Place) -> Place | None:
        """Whose tap sees a pixel of the image."""
        places = [divmod(at + self.kernel // 2 - step, self.stride) for at, step in zip(pixel, tap, strict=True)]
        return tuple(at for at, _ in places) if all(0 <= at < self.result and not rest for at, rest in places) else None


def parts_of(items: Sequence[Place], of_part: int) -> list[Sequence[Place]]:
    return [items[first : first + of_part] for first in range(0, len(items), of_part)]


def times_needed(
    find: Callable[[Place, Place], Place | None], blocks: Iterable[tuple[Sequence[Place], Sequence[Place]]]
) -> float:
    """How many blocks need what they find by their pixels and taps, in the mean."""
    of_blocks = [{find(*both) for both in itertools.product(*block)} - {None} for block in blocks]
    return sum(map(len, of_blocks)) / len(set().union(*of_blocks))


def channel_tiles(channels: int) -> int:
    return math.ceil(channels / TILE_CHANNELS)


def by_tiles_of_pixels(plan: Plan) -> int:
    """Of the largest remainder modulo the stride, where the tiles are of the image."""
    case = plan.case
    side = Window(case.side, case.kernel, case.stride).result
    return math.ceil(side * side / plan.last_argument)


def by_tiles(plan: Plan) -> float:
    case, window = plan.case, Window(plan.case.side, plan.case.kernel, plan.case.stride)
    parts = parts_of(window.pixels, plan.last_argument)
    return channel_tiles(case.out_channels) * times_needed(window.seen, [(part, window.taps) for part in parts])


def by_tiles_of_the_image(plan: Plan) -> float:
    """Each of pixels with the same remainder modulo the stride."""
    case, window = plan.case, Window(plan.case.side, plan.case.kernel, plan.case.stride)
    firsts = itertools.product(range(case.stride), repeat=2)
    remainders = [[*itertools.product(*(range(at, case.side, case.stride) for at in first))] for first in firsts]
    parts = [part for pixels in remainders for part in parts_of(pixels, plan.last_argument)]
    return channel_tiles(case.in_channels) * times_needed(window.seeing, [(part, window.taps) for part in parts])


def tiles_of_columns(plan: Plan) -> list[Sequence[Place]]:
    """Channels of one tap after the other's."""
    case = plan.case
    columns = [(*tap, channel) for tap in Window(case.side, case.kernel).taps for channel in range(case.in_channels)]
    return parts_of(columns, plan.last_argument * TILE_CHANNELS)


def by_tiles_of_columns(plan: Plan) -> float:
    case, window, columns = plan.case, Window(plan.case.side, plan.case.kernel), tiles_of_columns(plan)
    down = channel_tiles(case.out_channels)
    splits = plan.blocks // (case.samples * down * len(columns))
    of_split = math.ceil(len(window.pixels) / STEP_PIXELS / splits) * STEP_PIXELS
    return down * times_needed(window.seen, itertools.product(parts_of(window.pixels, of_split), columns))


def by_columns(plan: Plan) -> float:
    """Their rows are of some channels' taps, or of all taps; channels next to each other share sectors."""
    case, window = plan.case, Window(plan.case.side, plan.case.kernel, plan.case.stride)
    rows: list[Sequence[Place]] = [window.taps]
    if plan.kernel.startswith("columns_from_pixels"):
        channels = [0] * case.channels if case.channels_last else range(case.channels)
        rows = parts_of([(*tap, channel) for channel in channels for tap in window.taps], COLUMNS_ROWS)
    pixels = parts_of(window.pixels, COLUMNS_BYTES // case.image.itemsize)
    return times_needed(window.seen, itertools.product(pixels, rows))


def by_parts(plan: Plan) -> float:
    case, window = plan.case, Window(plan.case.side, plan.case.kernel, axes=3 if plan.case.volume else 2)
    parts = parts_of(window.pixels, PART_ELEMENTS * 4 // case.image.itemsize // case.channels)
    return times_needed(window.seen, [(part, window.taps) for part in parts])


def sums_of_few_channels(plan: Plan) -> float:
    """Each block but the last has 32 columns, and needs two rows of 16 and the moments, 16, which some have anyway."""
    blocks = plan.blocks - 1
    return (blocks * (32 + 32 + 16) - 32 - 16) / (blocks * 32)


def moments_and_parts(plan: Plan) -> float:
    """Each block needs the moments of all, 3 rows of 16 or 1; the 12 pooled sums of a block its sample's last one."""
    moments, parts = 16 * plan.blocks * (1 if "_few<" in plan.kernel else 3), 12 * plan.blocks
    return (plan.blocks * moments + parts) / (moments + parts)


@dataclass(frozen=True)
class Sharing:
    """What several blocks need, from L2 for all but the first; kernel and what: regular expressions."""

    kernel: str
    what: str
    why: str
    times: Callable[[Plan], float] = lambda plan: 1
    pieces: Callable[[Plan], int] = lambda plan: 1  # of a block, each of which may begin or end inside a sector

    def explains(self, plan: Plan, floor: int, l2: int) -> bool:
        """No more than that, and not much less: it may be no free pass."""
        least = self.times(plan) * floor
        return least / LIMIT <= l2 <= LIMIT * least + SECTOR_BYTES * self.pieces(plan) * plan.blocks


NEIGHBOURS = "by neighbours, which see the same pixels"
EDGES = Sharing("", "", "a sector at the edge of what a block has, which is another's too")
SHARINGS = (  # the first that fits holds, EDGES where none does
    Sharing("^forward_", "read weight$", "by each split of the samples", lambda plan: plan.along),
    Sharing("^(for|back)ward_", "read shift$", "by each tile of weights", lambda plan: plan.across),
    Sharing(
        "^(rotation|shifted)_", "read (shift|grad_shift|statistics)$", "by each block of a sample",
        lambda plan: plan.blocks / plan.case.samples,
    ),
    Sharing(
        "^backward_rows<.*Float16", "read grad$", "8 pairs, of a tap half a sector",
        lambda plan: 2 if plan.case.tap_major else 1, lambda plan: plan.case.samples,
    ),
    Sharing("^backward_general", "read grad$", "a piece of each sample", pieces=lambda plan: plan.case.samples),
    Sharing(
        "^head_join_few", "read weight1$", "by each 32 elements of its gradient",
        lambda plan: math.ceil(plan.case.channels * 16 / 32),
    ),
    Sharing("^head_join_few", "read partial$", "sums of hidden channels by each block", sums_of_few_channels),
    Sharing("^head_.*_few<", "read input$", "32 pixels of the batch by each block", pieces=lambda plan: 32),
    Sharing("^head_", "read input$", "by each slab of channels", lambda plan: plan.along),
    Sharing("^head_pool", "read partial$", "moments by every block", moments_and_parts),
    Sharing("^head_pool", "write partial$", "48 bytes and a ticket of each part of a sample", pieces=lambda plan: 2),
    Sharing("^head_", "read (weight1|partial)$", "by every block", lambda plan: plan.blocks),
    Sharing("^columns_from_", "read image$", NEIGHBOURS, by_columns),
    Sharing(
        "^image_from_", "read columns$", "a piece of a row for each tap and channel",
        pieces=lambda plan: COLUMNS_ROWS * plan.case.kernel**2,
    ),
    Sharing("^shifted_", "read image$", NEIGHBOURS, by_parts),
    Sharing("_tiles<", "read kernels$", "by each tile of a sample's pixels", by_tiles_of_pixels),
    Sharing(
        "_tiles<", "read bias$", "by each tile of its channels",
        lambda plan: plan.blocks / channel_tiles(plan.case.out_channels),
    ),
    Sharing("^convolve_tiles", "read input$", f"by each tile of channels; {NEIGHBOURS}", by_tiles),
    Sharing("^grad_input_tiles", "read grad$", f"by each tile of channels; {NEIGHBOURS}", by_tiles_of_the_image),
    Sharing("^grad_kernels_tiles", "read grad$", "by each tile of columns", lambda plan: len(tiles_of_columns(plan))),
    Sharing("^grad_kernels_tiles", "read input$", "by each tile of output channels and of taps", by_tiles_of_columns),
)  # fmt: skip


@dataclass(frozen=True)
class Again:
    """What one block asks for again: of reads from L1, of writes in parts that L2 joins; regular expressions."""

    case: str
    kernel: str
    what: str
    why: str


AGAIN = (  # the first that fits holds
    Again("misaligned", "", "", "an element at a time, as no vector begins at 16 bytes"),
    Again("", "", "(shift|statistics|partial|bias)$", "few bytes of a sample or block, an element at a time"),
    Again("", "_general", "", "tiles of single pairs, by requests that begin and end inside sectors"),
    Again("3 channels", "", "", "few channels of each pixel, one by one"),
    Again("", "^(backward_cubic3|head_)", "weight1?$", "by each warp of the block that needs it"),
    Again("", "^head_gradient", "input$", "once more, after all of a pixel's channels"),
    Again("7x7", "^rotation_", "map$", "less than a row of vectors for each warp, an element at a time"),
    Again("", "^image_from_", "columns$", "by requests that begin inside sectors"),
    Again("few channels", "_tiles<", "(kernels|out|grad_input)$", "rows of few channels, in parts of sectors"),
    Again("", "", "read (image|input|grad)$", "by each tap that sees a pixel"),
)
Reason = Sharing | Again | str
HOLES = {  # sectors that are moved for a part of them
    r"partial$": "rows begin at whole sectors",
    r"^read columns$": "no pixel needs what columns have of the borders",
}


def reasons(name: str, plan: Plan, what: str, count: dict[str, int]) -> list[Reason]:
    """Why an array takes more than its bytes: of memory, of L2, and of L1; AssertionError where that is not known."""
    place, found = f"{name}, {plan.kernel}, {what}: {count}", []
    if count["floor"] > LIMIT * count["bytes"] + SECTOR_BYTES:
        found += [why for pattern, why in HOLES.items() if re.search(pattern, what)][:1]
        assert found, f"sectors that are moved for a part of them, and no reason is known: {place}"
    if count["l2"] > LIMIT * count["floor"]:
        fitting = (one for one in SHARINGS if re.search(one.kernel, plan.kernel) and re.search(one.what, what))
        shared = next(fitting, EDGES)
        assert shared.explains(plan, count["floor"], count["l2"]), f"not {shared.times(plan)} times from L2: {place}"
        found.append(shared)
    if count["l1"] > LIMIT * count["l2"]:
        fitting = (one for one in AGAIN if re.search(one.case, name) and re.search(one.kernel, plan.kernel))
        again = [one for one in fitting if re.search(one.what, what)][:1]
        assert again, f"asked for again by a block, and no reason is known: {place}"
        found += again
    return found


def told(reason: Reason, plan: Plan) -> str:
    if isinstance(reason, Sharing):
        return f"L2, {reason.times(plan):.3g} times: {reason.why}" if reason.times(plan) > 1 else f"L2: {reason.why}"
    return f"L1: {reason.why}" if isinstance(reason, Again) else reason
