"""What the CUDA kernels ask of memory, held against a table that the meter in the emulator has counted.

``CROSSD_UPDATE_KERNELS=1 pytest tests/kernels/test_kernel_traffic.py`` writes the table anew; its changes are to be
read before they are committed. For each launch it has the barriers of all blocks; for each array in bytes the floor
(what is asked for, once), what the requests move and what is left where a block asks only once for each sector; for
shared memory the wavefronts and the ideal, of all accesses and of the wide ones, of 16 bytes. Beside each array that is
moved more than once it says why.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator.build import compiler, why_not
from emulator.columns_metering import ColumnsCase
from emulator.cuda_head_metering import WholeHeadCase
from emulator.metering import SECTOR_BYTES, HeadCase, Launch, ShiftCase
from emulator.shifted_columns_metering import ShiftedColumnsCase
from emulator.tiles_kernels_metering import TilesKernelsCase
from emulator.tiles_metering import TilesCase

TABLE = Path(__file__).with_name("kernel_traffic.json")
UPDATE = os.environ.get("CROSSD_UPDATE_KERNELS") == "1"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

SHIFTS = {
    "3x3x3": functools.partial(ShiftCase, 32, 32, 16, (3, 3, 3)),
    "3x3x3, few samples": functools.partial(ShiftCase, 4, 64, 8, (3, 3, 3)),
    "3x3x3, whole": functools.partial(ShiftCase, 8, 16, 8, (3, 3, 3), whole=True),
    "3x3x3, misaligned": functools.partial(ShiftCase, 9, 5, 7, (3, 3, 3), misaligned=True),
    "3x3x3, tap-major": functools.partial(ShiftCase, 32, 32, 16, (3, 3, 3), tap_major=True),
    "5x5x5": functools.partial(ShiftCase, 8, 16, 8, (5, 5, 5)),
    "5x5x5, misaligned": functools.partial(ShiftCase, 5, 5, 7, (5, 5, 5), misaligned=True),
    "5x5x5, tap-major": functools.partial(ShiftCase, 8, 16, 8, (5, 5, 5), tap_major=True),
    "7x7x7": functools.partial(ShiftCase, 8, 32, 3, (7, 7, 7)),
    "2x2x2": functools.partial(ShiftCase, 8, 4, 2, (2, 2, 2)),
    "4x4x4": functools.partial(ShiftCase, 8, 4, 2, (4, 4, 4)),
    "6x6x6": functools.partial(ShiftCase, 4, 4, 2, (6, 6, 6)),
    "3x5x7": functools.partial(ShiftCase, 4, 4, 2, (3, 5, 7)),
}
HEADS = {
    "56x56": functools.partial(HeadCase, 2, 56, 56),
    "56x56, channels-last": functools.partial(HeadCase, 2, 56, 56, channels_last=True),
    "56x56, misaligned": functools.partial(HeadCase, 2, 56, 56, misaligned=True),
    "7x7": functools.partial(HeadCase, 4, 7, 7),
    "7x7, channels-last": functools.partial(HeadCase, 4, 7, 7, channels_last=True),
}
WHOLE_HEADS = {
    "64 channels": functools.partial(WholeHeadCase, 2, 64, 16, 16),
    "64 channels, channels-last": functools.partial(WholeHeadCase, 2, 64, 16, 16, channels_last=True),
    "288 channels, channels-last": functools.partial(WholeHeadCase, 1, 288, 8, 8, channels_last=True),
    "3 channels, channels-last": functools.partial(WholeHeadCase, 2, 3, 16, 16, channels_last=True),
    "3 channels of no gradient": functools.partial(WholeHeadCase, 2, 3, 16, 16, channels_last=True, need_input=False),
}
COLUMNS = {
    "3x3": functools.partial(ColumnsCase, 2, 32, 16),
    "3x3, channels-last": functools.partial(ColumnsCase, 2, 32, 16, channels_last=True),
    "3x3, stride 2": functools.partial(ColumnsCase, 2, 32, 16, stride=2),
    "3x3, stride 2, channels-last": functools.partial(ColumnsCase, 2, 32, 16, stride=2, channels_last=True),
    "3x3, 14x14, channels-last": functools.partial(ColumnsCase, 2, 32, 14, channels_last=True),
    "7x7 of few channels": functools.partial(ColumnsCase, 2, 3, 16, 7),
    "7x7 of few channels, channels-last": functools.partial(ColumnsCase, 2, 3, 16, 7, channels_last=True),
}
TILES = {
    "3x3": functools.partial(TilesCase, 2, 32, 128, 16),
    "3x3, 14x14": functools.partial(TilesCase, 2, 32, 64, 14),
    "3x3, stride 2": functools.partial(TilesCase, 2, 32, 64, 16, stride=2),
    "5x5 of few channels": functools.partial(TilesCase, 2, 8, 24, 9, 5),
}
TILES_KERNELS = {  # the gradient of the kernels
    "3x3": functools.partial(TilesKernelsCase, 2, 64, 64, 14),
    "3x3, many samples": functools.partial(TilesKernelsCase, 32, 64, 32, 6),
    "3x3, shared pixels": functools.partial(TilesKernelsCase, 1, 64, 64, 24),
    "5x5 of few channels": functools.partial(TilesKernelsCase, 2, 8, 24, 9, 5),
}
SHIFTED_COLUMNS = {
    "3x3": functools.partial(ShiftedColumnsCase, 2, 64, 8),
    "3x3x3 of a volume": functools.partial(ShiftedColumnsCase, 2, 32, 4, volume=True),
    "5x5": functools.partial(ShiftedColumnsCase, 2, 32, 6, 5),
}
Case = ShiftCase | HeadCase | WholeHeadCase | ColumnsCase | TilesCase | TilesKernelsCase | ShiftedColumnsCase
CASES: dict[str, Case] = {
    f"{group} {name}, {type_name}": make(**{argument: dtype})
    for group, cases, argument in (
        ("shift", SHIFTS, "other"),
        ("head", HEADS, "map"),
        ("whole-head", WHOLE_HEADS, "input"),
        ("columns", COLUMNS, "image"),
        ("tiles", TILES, "image"),
        ("tiles-kernels", TILES_KERNELS, "image"),
        ("shifted-columns", SHIFTED_COLUMNS, "image"),
    )
    for name, make in cases.items()
    for type_name, dtype in TYPES.items()
}

DIRECTIONS: dict[type, tuple[str, ...]] = {
    TilesCase: ("forward", "input"),
    TilesKernelsCase: ("backward",),
    ShiftedColumnsCase: ("forward", "backward", "image"),
}
PLACES = [
    (name, direction)
    for name, case in CASES.items()
    for direction in DIRECTIONS.get(type(case), ("forward", "backward"))
]

each_place = pytest.mark.parametrize("name, direction", PLACES)

LIMIT = 1.05  # of the bytes of an array
WIDE_LIMIT = 1.1  # of the wavefronts of 16-byte accesses


@dataclass(frozen=True)
class Reason:
    """Why arrays are moved more than once; case, kernel and what: regular expressions."""

    case: str
    kernel: str
    what: str
    why: str
    cache: str = ""  # where all that is moved again comes from: "L1", of the same block, or "L2", of other blocks


REASONS = (  # the first that fits holds
    Reason("", "", "(shift|grad_shift|statistics)$", "at most 48 bytes for each sample: sectors that are not full"),
    Reason("", "rotation_head", "partial$", "at most 48 bytes for each block: sectors that are not full"),
    Reason("", "^head_", "(weight1|partial)$", "by every block, which needs all of it: from L2, and L1 of its warps"),
    Reason("whole-head 288 ", "head_gradient", "read input$", "by a block for each 256 channels, and its own again"),
    Reason("whole-head 3 ", "_few<", "read input$", "channels one by one: from L1; 32 pixels by each block: from L2"),
    Reason("whole-head 3 ", "", "", "few channels of each pixel, one by one: a sector again from L1", "L1"),
    Reason("", "", "partial$", "of few samples: the last sector of a block's row is not full"),
    Reason("misaligned", "forward_", "read weight", "an element at a time, and by each split of the samples"),
    Reason("", "forward_general", "read weight", "by each split of the samples: from L2"),
    Reason("", "forward_", "read weight", "by each split of the samples: from L2", "L2"),
    Reason("", "backward_cubic3", "read weight", "by the warps of a block that share pairs: from L1", "L1"),
    Reason("misaligned", "", "", "an element at a time, as no vector begins at 16 bytes: a sector again from L1", "L1"),
    Reason("", "_general", "", "tiles of single pairs, or of a few, that begin and end inside of sectors"),
    Reason("head 7x7", "", "map$", "less than a row of vectors for each warp, an element at a time: from L1", "L1"),
    Reason("", "columns_from_", "read image", "a pixel is in as many columns as a kernel has elements: from L1 and L2"),
    Reason("", "image_from_", "read columns", "a tap's piece of a row begins inside a sector: the rest from L1 and L2"),
    Reason("few channels", "^grad_input_tiles", "read kernels", "rows of 16 bytes, half a sector, and by each tile"),
    Reason("", "^(convolve|grad_input)_tiles", "read kernels", "by each tile of a sample's pixels: from L2", "L2"),
    Reason("", "^convolve_tiles", "read input", "by each tap from L1, and by each tile of channels from L2"),
    Reason("", "^convolve_tiles", "read bias", "an element at a time, by each tile: from L1 and L2"),
    Reason("", "^convolve_tiles", "write out", "pixels of few channels begin inside sectors: L2 joins the parts"),
    Reason("", "^grad_input_tiles", "read grad", "by each tap from L1, and by each tile of channels from L2"),
    Reason(
        "", "^grad_input_tiles", "write grad_input", "pixels of few channels begin inside sectors: L2 joins the parts"
    ),
    Reason("", "^grad_kernels_tiles", "read grad", "by each tile of columns: from L2"),
    Reason("", "^grad_kernels_tiles", "read input", "by each tap: from L1 of a tile with several, else from L2"),
    Reason("", "^shifted_", "read image", "a pixel is seen by as many others as a kernel has elements: from L1 and L2"),
)

COSTS = (" moved", " moved_once_a_block", " wavefronts", " barriers")

Counts = dict[str, Any]
Kernels = dict[str, dict[str, Counts]]  # by kernel, then by what it does with which memory


def counts_of(launch: Launch) -> dict[str, Counts]:
    counts = {"launch": {"blocks": launch.blocks, "threads": launch.threads, "barriers": launch.barriers}}
    for one in launch.arrays:
        counts[f"{'write' if one.write else 'read'} {one.array}"] = {
            "floor": one.distinct_bytes,
            "moved": one.moved,
            "moved_once_a_block": one.block_sectors * SECTOR_BYTES,
        }
    for one in launch.instructions:
        if one.array == "shared":
            name = f"{'write' if one.write else 'read'} shared"
            entry = counts.setdefault(name, dict.fromkeys(("wavefronts", "ideal", "wide_wavefronts", "wide_ideal"), 0))
            for prefix in ("", "wide_") if one.size == 16 else ("",):
                entry[f"{prefix}wavefronts"] += one.units
                entry[f"{prefix}ideal"] += one.ideal
    return counts


@functools.cache
def launches(name: str, direction: str) -> tuple[Launch, ...]:
    return CASES[name].measure(direction)


def measured(name: str, direction: str) -> Kernels:
    return {launch.kernel: counts_of(launch) for launch in launches(name, direction)}


def with_reasons(name: str, direction: str) -> Kernels:
    kernels = measured(name, direction)
    for kernel, counts in kernels.items():
        for what, count in counts.items():
            found = reason(name, kernel, what, count)
            if found is not None:
                count["why"] = found.why
    return kernels


@pytest.fixture(scope="module", autouse=True)
def _buildable() -> None:
    reason = why_not("meter")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def table() -> dict[str, Kernels]:
    """By case and direction. Counts depend on the compiler: it may keep a value that another one reads again."""
    version = subprocess.run([compiler() or "", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    here = f"g++ {version.split('.')[0].strip()} {platform.machine()}"
    if UPDATE:
        cases = {f"{name}, {direction}": with_reasons(name, direction) for name, direction in PLACES}
        text = json.dumps({"compiler": here, "cases": cases}, indent=1, sort_keys=True)
        innermost = r"\{[^{}]*[\d\"]\s*\}"  # in a line each
        TABLE.write_text(re.sub(innermost, lambda found: " ".join(found[0].split()), text) + "\n")
    content = json.loads(TABLE.read_text())
    if content["compiler"] != here:
        pytest.skip(f"the table was made with {content['compiler']}, here is {here}")
    cases = content["cases"]
    return cases


@each_place
def test_traffic_is_that_of_the_table(table: dict[str, Kernels], name: str, direction: str) -> None:
    got, expected = measured(name, direction), table[f"{name}, {direction}"]
    assert sorted(got) == sorted(expected), "kernels came or went: look at them, then write the table anew"
    changed = {
        f"{kernel}, {what}, {key}": (old, new)
        for kernel in got
        for what in sorted(got[kernel].keys() | expected[kernel].keys())
        for key, old, new in differences(expected[kernel].get(what, {}), got[kernel].get(what, {}))
    }
    worse = {place for place, (old, new) in changed.items() if new > old and place.endswith(COSTS)}
    assert worse == set(), f"costs more than the table has (table, now): {changed}"
    assert changed == {}, "no worse than the table (table, now): write it anew"


def differences(old: Counts, new: Counts) -> list[tuple[str, int, int]]:
    keys = sorted((old.keys() | new.keys()) - {"why"})
    return [(key, old.get(key, 0), new.get(key, 0)) for key in keys if old.get(key, 0) != new.get(key, 0)]


def reason(name: str, kernel: str, what: str, count: Counts) -> Reason | None:
    """Why an array is moved more than once; None where it is not."""
    if count.get("moved", 0) <= LIMIT * count.get("floor", 0):
        return None
    fitting = (one for one in REASONS if re.search(one.case, name) and re.search(one.kernel, kernel))
    found = next((one for one in fitting if re.search(one.what, what)), None)
    assert found is not None, f"{name}, {kernel}, {what} is moved more than once, and no reason is known: {count}"
    return found


def test_arrays_are_moved_once_or_the_table_says_why(table: dict[str, Kernels]) -> None:
    used = set()
    for name, kernels in table.items():
        for kernel, counts in kernels.items():
            for what, count in counts.items():
                found = reason(name, kernel, what, count)
                assert count.get("why") == (found.why if found else None), f"{name}, {kernel}, {what}: {count}"
                if found is None:
                    continue
                used.add(found)
                once, moved = count["moved_once_a_block"], count["moved"]
                # Of each block's tile a sector at the edge may belong to another, too.
                if found.cache == "L1":
                    assert once <= LIMIT * count["floor"] + SECTOR_BYTES * counts["launch"]["blocks"], (name, what)
                if found.cache == "L2":
                    assert moved <= LIMIT * once, (name, what)
    assert set(REASONS) == used, "reasons that nothing needs are to go"


@each_place
def test_wide_accesses_of_shared_memory_have_no_conflicts(name: str, direction: str) -> None:
    for kernel, counts in measured(name, direction).items():
        for what, count in counts.items():
            if what.endswith("shared"):
                assert count["wide_wavefronts"] <= WIDE_LIMIT * count["wide_ideal"], f"{kernel}, {what}: {count}"


@each_place
def test_every_element_is_read_or_written(name: str, direction: str) -> None:
    """Of the tensors, of which the floors therefore are the sizes; of workspaces a kernel may use a part, and what
    columns, or what is seen, hold of the borders goes nowhere.
    """
    for launch in launches(name, direction):
        for one in launch.arrays:
            if one.array != "partial" and (one.array not in ("columns", "seen") or one.write):
                assert one.distinct_bytes == one.size, one
