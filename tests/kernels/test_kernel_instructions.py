"""The tables behind predicted times: instructions of every loop by the disassembler, wavefronts by the meter.

Of the kernels for any sizes the steps of the innermost loops alone are there, by their accesses of shared memory: the
compiler cuts their other loops into pieces that no line of the source names.

``CROSSD_UPDATE_KERNELS=1 pytest tests/kernels/test_kernel_instructions.py`` writes them anew, to be read before they
are committed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from emulator.build import why_not
from emulator.cubins import compile_cubin, nvcc_release
from emulator.metering import Launch
from shift_problems import TYPES, expected_launches, metered
from test_static_kernels import ARCHITECTURES, SOURCES, UPDATE, demangled, disassembler

from benchmarks.gpu.prediction import bounds, launches, tiles_models, whole_head_models
from benchmarks.gpu.prediction.bounds import TABLE
from benchmarks.gpu.prediction.convolution_models import shifted_columns
from benchmarks.gpu.prediction.machine_code import ONE_WARP, Loop, loops_of, steps_of

TOLERANCE = 0.03  # of a loop's instructions
LEAST = 8  # a change of fewer instructions is none
CHECKED = ARCHITECTURES if UPDATE else ("sm_90",)
PREDICTED = re.compile(
    r"\w+_(cubic3|rows|tiles)<|sum_partials<|add_splits<|rotation_head_|head_|shifted_\w+_cubic<|image_from_seen<"
)
OF_ANY_SIZES = re.compile(r"\w+_general<")  # whose steps alone are counted
STEP_LOOPS = ("convolve.j", "backward_general_slice.from")

Loops = dict[str, dict[str, int]]


def machine_code(source: str, architecture: str) -> dict[str, str]:
    """The disassembly of each kernel, with the lines of the source."""
    program = disassembler()
    if shutil.which("nvcc") is None or program is None:
        pytest.skip("nvcc or nvdisasm is not installed")
    command = [program, "-c", "-g", str(compile_cubin(source, architecture))]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]
    return {re.match(r"\w+", body)[0]: body for body in sections}  # type: ignore[index]


def counted(loops: list[Loop]) -> Loops:
    """As the table has them: without the loops that the fast ways do not take."""
    return {
        loop.name: loop.counts | ({"iterations": loop.iterations} if loop.iterations > 1 else {})
        for loop in loops
        if not launches.SLOW_LOOPS.fullmatch(loop.name)
    }


@pytest.fixture(scope="module")
def codes() -> dict[str, dict[str, str]]:
    """By architecture and kernel."""
    jobs = [(architecture, source) for architecture in CHECKED for source in SOURCES]
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(lambda job: machine_code(job[1], job[0]), jobs))
    result: dict[str, dict[str, str]] = {architecture: {} for architecture in CHECKED}
    for (architecture, _), kernels in zip(jobs, found, strict=True):
        result[architecture] |= {demangled(symbol): code for symbol, code in kernels.items()}
    return result


@pytest.fixture(scope="module")
def kernels(codes: dict[str, dict[str, str]]) -> dict[str, dict[str, Loops]]:
    """By architecture and kernel."""
    result = {
        architecture: {name: counted(loops_of(code)) for name, code in of_one.items() if PREDICTED.match(name)}
        for architecture, of_one in codes.items()
    }
    if UPDATE:
        write_table(nvcc=nvcc_release(), kernels=result)
    return result


def write_table(**entries: Any) -> None:
    """A line for each loop."""
    before = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    table = {"nvcc": "", "kernels": {}, "steps": {}, "wavefronts": {}} | before | entries
    text = json.dumps(table, indent=1, sort_keys=True)
    TABLE.write_text(re.sub(r"\{[^{}]*\}", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n")


def table() -> dict[str, Any]:
    return json.loads(TABLE.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", CHECKED)
def test_instructions_are_those_of_the_table(kernels: dict[str, dict[str, Loops]], architecture: str) -> None:
    if table()["nvcc"] != nvcc_release():
        pytest.skip(f"the table was made with nvcc {table()['nvcc']}, here is {nvcc_release()}")
    expected, got = table()["kernels"][architecture], kernels[architecture]
    assert sorted(got) == sorted(expected), "kernels came or went: write the table anew"
    other = {}
    for name, loops in got.items():
        assert sorted(loops) == sorted(expected[name]), f"{name}: loops came or went: write the table anew"
        for loop, counts in loops.items():
            before, now = (sum(found.values()) for found in (expected[name][loop], counts))
            if abs(now - before) > max(LEAST, TOLERANCE * before):
                other[f"{name} {loop}"] = f"{before} -> {now}"
    assert other == {}, "read the changes and write the table anew"


@pytest.fixture(scope="module")
def steps(codes: dict[str, dict[str, str]]) -> dict[str, dict[str, dict[str, float]]]:
    """By architecture and kernel of any sizes."""
    result = {
        architecture: {
            name: steps_of(code, STEP_LOOPS, (3, 4, 5) if name.endswith("true>") else (2, 3))
            for name, code in of_one.items()
            if OF_ANY_SIZES.match(name)
        }
        for architecture, of_one in codes.items()
    }
    if UPDATE:
        write_table(steps=result)
    return result


@pytest.mark.parametrize("architecture", CHECKED)
def test_steps_are_those_of_the_table(steps: dict[str, dict[str, dict[str, float]]], architecture: str) -> None:
    if table()["nvcc"] != nvcc_release():
        pytest.skip(f"the table was made with nvcc {table()['nvcc']}, here is {nvcc_release()}")
    expected = table()["steps"][architecture]
    assert sorted(steps[architecture]) == sorted(expected)
    for kernel, found in steps[architecture].items():
        assert found == pytest.approx(expected[kernel], rel=TOLERANCE), kernel
        accesses = ["3", "4", "5"] if kernel.endswith("true>") else ["2", "3"]
        assert sorted(found) == (accesses if kernel.startswith("backward") else accesses[:-1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_loop_is_one_that_the_prediction_knows(architecture: str) -> None:
    """A loop that it does not know would count as never run."""
    types = [("float32", "float32"), ("float32", "bfloat16"), ("float32", "float16"), ("float64", "float64")]
    known: dict[str, set[str]] = {}
    for weight, other in types:
        for size in (3, 5, 7):
            for slices in (1, size):
                problem = launches.ShiftProblem(32, 4096, size, slices, weight, other)
                tap_major = dataclasses.replace(problem, tap_major=True)
                for launch in (*launches.forward_launches(tap_major), *launches.backward_launches(tap_major)):
                    known.setdefault(launch.kernel.partition("<")[0], set()).update(launch.loops)
    tiles = tiles_models.TilesProblem(2, 1, 32, 64, 256, 9, "bfloat16", {"input": 1, "kernels": 1})
    known["convolve_tiles"] = set(tiles_models.tiles_launches(tiles)[0].loops)
    axes = (4, 4), (3, 3), (1, 1), (1, 1), (1, 1)
    of_input = tiles_models.TilesInputProblem(2, 1, 32, 64, *axes, "bfloat16", {"grad": 1, "kernels": 1})
    known["grad_input_tiles"] = set(tiles_models.tiles_input_launches(of_input)[0].loops)
    known["grad_kernels_tiles"], known["add_splits"] = {"add_steps.step"}, {"add_splits.split"}
    cube = (4, 4, 4), (3, 3, 3), (3, 3, 3), (4, 4, 4), (1, 1, 1), (1, 1, 1), (1, 1, 1)
    shifted = shifted_columns.ShiftedProblem(2, 64, 1, *cube, "bfloat16")
    for launch in (
        *shifted_columns.shifted_columns_launches(shifted),
        *shifted_columns.shifted_gradient_launches(shifted, need_seen=True, need_shift=True),
        *shifted_columns.image_from_seen_launches(shifted),
    ):
        assert isinstance(launch, launches.Launch)
        known[launch.kernel.partition("<")[0]] = set(launch.loops)
    head = launches.HeadProblem(2, 200 * 200, "float32", False)
    for launch in (*launches.head_forward_launches(head), *launches.head_backward_launches(head)):
        known.setdefault(launch.kernel.partition("<")[0], set()).update(launch.loops)
    for packed, dtype in itertools.product((False, True), ("float32", "bfloat16")):
        whole = whole_head_models.WholeHeadProblem(2, 64, 100, dtype, packed)
        of_few = whole_head_models.WholeHeadProblem(2, 3, 100, dtype, packed, need_input=False)
        found = [
            launches_of(problem, training=True)
            for problem in (whole, of_few)
            for launches_of in (
                whole_head_models.forward_launches,
                whole_head_models.backward_launches,
            )
        ]
        for launch in itertools.chain(*found):
            known.setdefault(launch.kernel.partition("<")[0], set()).update(launch.loops)
    unknown = {
        (kernel, path)
        for kernel, loops in table()["kernels"][architecture].items()
        for path in loops
        if path
        and not path.endswith(ONE_WARP)
        and "(PixelOrder)2" not in kernel
        and path.rpartition("/")[2] not in known[kernel.partition("<")[0]]
    }
    assert unknown == set()


# What tells a tile's cost from a sample's: by K the pairs of a block, and the samples of two calls; forward in chunks,
# of which one block takes two.
SHIFTS = {
    ("forward", 3): (128, 1, 2),
    ("backward", 3): (128, 4, 32),
    ("forward", 7): (32, 1, 2),
    ("backward", 7): (32, 8, 16),
}


def problems() -> list[tuple[str, launches.ShiftProblem, launches.ShiftProblem]]:
    """Two of different numbers of samples, of every kernel that the rows of the operator benchmark launch, and of
    those for tap-major gradients.
    """
    found = []
    for (direction, size), (pairs, *samples) in SHIFTS.items():
        for other in TYPES:
            if other == "float64" and size == 7:
                continue
            weight = "float64" if other == "float64" else "float32"
            for slices in (1, 3) if size == 3 and other == "float32" else (1,):
                one = launches.ShiftProblem(1, pairs, size, slices, weight, other)
                chunk = one.chunk if (direction, size) == ("forward", 3) else 1
                few, many = (dataclasses.replace(one, samples=count * chunk) for count in samples)
                found.append((direction, few, many))
                if (direction, size, slices) == ("backward", 3, 1) and other != "float64":
                    few, many = (dataclasses.replace(one, tap_major=True) for one in (few, many))
                    found.append((direction, few, many))
    return found


def wavefronts(launch: Launch) -> int:
    return launch.shared(write=False)[0] + launch.shared(write=True)[0]


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, float]]:
    """By kernel: wavefronts of shared memory for a tile of 32 pairs, and for each sample of it."""
    reason = why_not("meter")
    if reason is not None:
        pytest.skip(reason)
    found = {}
    for direction, *both in problems():
        rows, sums = [], []
        for problem in both:
            launch = expected_launches(direction, problem)[0]
            rows.append([float(launch.tiles), float(launch.tile_samples)])
            sums.append([float(wavefronts(metered(direction, problem)[0]))])
        tile, sample = torch.linalg.solve(torch.tensor(rows), torch.tensor(sums)).flatten().tolist()
        found[launch.kernel] = {"tile": round(tile, 2), "sample": round(sample, 2)}
    if UPDATE:
        write_table(wavefronts=found)
    return found


def test_wavefronts_are_those_of_the_table(costs: dict[str, dict[str, float]]) -> None:
    expected = table()["wavefronts"]
    assert sorted(costs) == sorted(expected)
    assert costs == {kernel: pytest.approx(value, rel=TOLERANCE, abs=0.5) for kernel, value in expected.items()}


@pytest.mark.parametrize(
    ("direction", "problem"),
    [
        ("forward", launches.ShiftProblem(32, 1024, 3, 1, "float32", "float32")),
        ("forward", launches.ShiftProblem(32, 4096, 3, 1, "float32", "bfloat16")),
        ("forward", launches.ShiftProblem(32, 192, 7, 1, "float32", "float32")),
        ("backward", launches.ShiftProblem(32, 192, 7, 1, "float32", "bfloat16")),
        # Four warps share the pairs, and one of them ends the work alone.
        ("backward", launches.ShiftProblem(32, 1024, 3, 1, "float32", "bfloat16", tap_major=True)),
    ],
)
def test_the_loops_add_up_to_what_runs(direction: str, problem: launches.ShiftProblem) -> None:
    """Instructions that access shared memory: by the machine code and the iterations, and by the meter."""
    got, wanted = metered(direction, problem)[0], expected_launches(direction, problem)[0]
    counts = bounds.instructions(wanted, table()["kernels"]["sm_90"][wanted.kernel])
    requests = sum(one.requests for one in got.instructions if one.array == "shared")
    assert counts["shared"] == pytest.approx(requests, rel=0.08)
    assert bounds.shared_wavefronts(wanted, counts, table()) == pytest.approx(wavefronts(got), rel=0.02)
