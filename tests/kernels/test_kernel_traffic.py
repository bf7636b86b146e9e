"""What the CUDA kernels ask of memory, held against a table that the meter in the emulator has counted.

``CROSSD_UPDATE_KERNELS=1 pytest tests/kernels/test_kernel_traffic.py`` writes the table anew, with ``-k tiles`` the
cases alone whose names have that word; its changes are to be read before they are committed. For each launch it has the
barriers of all blocks; for shared memory the wavefronts and the ideal, of all accesses and of the wide ones, of 16
bytes; for each array

    bytes   that lanes ask for, each once
    floor   the sectors that hold them, in bytes: what memory gives or takes at least
    l2      what passes between L2 and the blocks: L1 keeps what a block has asked for, L2 joins what it writes
    l1      what requests of warps ask for
    why     each is above 1.05 times the one before: see traffic_reasons.py, which tells how often
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator.build import CACHE, compiler, only_one, why_not
from emulator.columns_metering import ColumnsCase
from emulator.cuda_head_metering import WholeHeadCase
from emulator.metering import HeadCase, Launch, ShiftCase
from emulator.shifted_columns_metering import ShiftedColumnsCase
from emulator.tiles_kernels_metering import TilesKernelsCase
from emulator.tiles_metering import TilesCase
from traffic_reasons import AGAIN, EDGES, HOLES, SHARINGS, Case, Plan, Reason, reasons, told

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

WIDE_LIMIT = 1.1  # of the wavefronts of 16-byte accesses
COSTS = (" bytes", " floor", " l2", " l1", " wavefronts", " barriers")

Counts = dict[str, Any]
Kernels = dict[str, dict[str, Counts]]  # by kernel, then by what it does with which memory


def counts_of(launch: Launch) -> dict[str, Counts]:
    counts = {"launch": {"blocks": launch.blocks, "threads": launch.threads, "barriers": launch.barriers}}
    counts["launch"]["along"] = launch.grid[1]
    for one in launch.arrays:
        counts[f"{'write' if one.write else 'read'} {one.array}"] = {
            "bytes": one.distinct_bytes,
            "floor": one.floor,
            "l2": one.l2,
            "l1": one.l1,
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


def reasons_of(name: str, kernels: Kernels) -> dict[tuple[str, str], tuple[Plan, list[Reason]]]:
    """By kernel, and what it does with which array."""
    found = {}
    for kernel, counts in kernels.items():
        launch = counts["launch"]
        plan = Plan(CASES[name], kernel, launch["blocks"] // launch["along"], launch["along"])
        arrays = {what: count for what, count in counts.items() if "floor" in count}
        found |= {(kernel, what): (plan, reasons(name, plan, what, count)) for what, count in arrays.items()}
    return found


@pytest.fixture(scope="module", autouse=True)
def _buildable() -> None:
    reason = why_not("meter")
    if reason is not None:
        pytest.skip(reason)


@functools.cache
def here() -> str:
    """Counts depend on the compiler: it may keep a value that another one reads again."""
    version = subprocess.run([compiler() or "", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return f"g++ {version.split('.')[0].strip()} {platform.machine()}"


def table() -> dict[str, Kernels]:
    """By case and direction."""
    content = json.loads(TABLE.read_text())
    if content["compiler"] != here():
        pytest.skip(f"the table was made with {content['compiler']}, here is {here()}")
    cases: dict[str, Kernels] = content["cases"]
    return cases


def write_case(name: str, direction: str) -> None:
    """Into the table, from which it takes what no longer is a case, or was made with another compiler."""
    kernels = measured(name, direction)
    for (kernel, what), (plan, found) in reasons_of(name, kernels).items():
        kernels[kernel][what] |= {"why": "; ".join(told(one, plan) for one in found)} if found else {}
    with only_one(CACHE / ".kernel_traffic.lock"):
        content = json.loads(TABLE.read_text())
        places = [f"{name}, {direction}" for name, direction in PLACES] if content["compiler"] == here() else []
        cases = {place: case for place, case in content["cases"].items() if place in places}
        cases[f"{name}, {direction}"] = kernels
        text = json.dumps({"compiler": here(), "cases": cases}, indent=1, sort_keys=True)
        innermost = r"\{[^{}]*[\d\"]\s*\}"  # in a line each
        TABLE.write_text(re.sub(innermost, lambda found: " ".join(found[0].split()), text) + "\n")


@each_place
def test_traffic_is_that_of_the_table(name: str, direction: str) -> None:
    if UPDATE:
        write_case(name, direction)
    got, expected = measured(name, direction), table()[f"{name}, {direction}"]
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


def test_arrays_are_moved_once_or_the_table_says_why() -> None:
    cases, used = table(), set()
    assert cases.keys() == {f"{name}, {direction}" for name, direction in PLACES}
    for name, direction in PLACES:
        kernels = cases[f"{name}, {direction}"]
        for (kernel, what), (plan, found) in reasons_of(name, kernels).items():
            expected = "; ".join(told(one, plan) for one in found)
            assert kernels[kernel][what].get("why", "") == expected, f"{name}, {kernel}, {what}"
            used.update(found)
    assert {*SHARINGS, EDGES, *AGAIN, *HOLES.values()} == used, "reasons that nothing needs are to go"


def test_a_reason_is_no_free_pass() -> None:
    """Of a weight that four splits read: nothing else may hide behind it, and they must be four."""
    plan = Plan(CASES["shift 3x3x3, float32"], "forward_cubic3<float, float, 1, false>", across=16, along=4)

    def found(**changed: int) -> list[str]:
        count = {"bytes": 4096, "floor": 4096, "l2": 4 * 4096, "l1": 4 * 4096, **changed}
        return [told(one, plan) for one in reasons("shift 3x3x3, float32", plan, "read weight", count)]

    assert found() == ["L2, 4 times: by each split of the samples"]
    assert found(l2=4096, l1=4096) == []
    assert found(l2=4 * 4096 + 64 * 32)  # a sector at the edge of what each block has
    unexplained = {
        "moved for a part of them": {"floor": 2 * 4096},
        "not 4 times": {"l2": 5 * 4096 + 64 * 32, "l1": 5 * 4096},
        "not 4 times from L2": {"l2": 3 * 4096, "l1": 3 * 4096},
        "asked for again by a block": {"l1": 5 * 4096},
    }
    for text, changed in unexplained.items():
        with pytest.raises(AssertionError, match=text):
            found(**changed)


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
