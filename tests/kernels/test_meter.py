"""The meter itself: the requests of small kernels are known, and each planted fault is found at its line."""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulator.build import EMULATOR, compile_program, why_not
from emulator.harness import ORDERS
from emulator.metering import Instruction, Launch, Meter

SOURCE = EMULATOR / "selftest" / "metered.cpp"
BLOCKS, THREADS, WARPS = 2, 64, 4  # of each kernel; warps of both blocks


@pytest.fixture(scope="module")
def meter() -> Meter:
    reason = why_not("meter")
    if reason is not None:
        pytest.skip(reason)
    return Meter(compile_program(SOURCE, "meter", shared=True))


def measured(meter: Meter, *kernels: str, offset: int = 0, order: str = "forward") -> tuple[Launch, ...]:
    """The launches of the kernels, which read ``in`` and write ``out``; offset: of both, in elements."""
    tensors = [torch.zeros(8 * BLOCKS * THREADS + 16)[offset : offset + 8 * BLOCKS * THREADS] for _ in range(2)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    library = ctypes.CDLL(str(meter.path))

    def call() -> None:
        for kernel in kernels:
            library.run(kernel.encode(), *pointers, ORDERS[order])

    return meter.measure(call, **dict(zip(("in", "out"), tensors, strict=True)))


def line_of(mark: str) -> str:
    """The place in the source whose line ends with the mark."""
    lines = SOURCE.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"// {mark}"))
    return f"selftest/metered.cpp:{number}"


def at(launch: Launch, mark: str, array: str = "in") -> Instruction:
    (found,) = (one for one in launch.instructions if (one.place, one.array) == (line_of(mark), array))
    return found


# kernel, mark, array; bytes of a lane; requests, sectors or wavefronts, ideal: for each warp.
EXPECTED = [
    ("copy_dense", "dense read", "in", 4, 1, 4, 4),
    ("copy_dense", "dense store", "out", 4, 1, 4, 4),
    ("copy_vectors", "vector read", "in", 16, 1, 16, 16),
    ("copy_vectors", "vector store", "out", 16, 1, 16, 16),
    ("copy_structs", "struct read", "in", 16, 1, 16, 16),
    # A scalar loop where a vector should be: four requests, and each sector asked for four times.
    ("copy_scalars", "scalar read", "in", 4, 4, 64, 16),
    ("copy_scalars", "scalar store", "out", 4, 4, 64, 16),
    ("store_strided", "strided store", "out", 4, 1, 32, 4),
    ("read_banks<1>", "strided banks", "shared", 4, 1, 1, 1),
    ("read_banks<2>", "strided banks", "shared", 4, 1, 2, 1),
    ("read_banks<8>", "strided banks", "shared", 4, 1, 8, 1),
    ("read_banks<8>", "dense banks", "shared", 4, 1, 1, 1),
    ("read_vector_banks<float2, 1>", "strided vectors", "shared", 8, 1, 2, 2),
    ("read_vector_banks<float2, 2>", "strided vectors", "shared", 8, 1, 4, 2),
    ("read_vector_banks<float4, 1>", "strided vectors", "shared", 16, 1, 4, 4),
    ("read_vector_banks<float4, 2>", "strided vectors", "shared", 16, 1, 8, 4),
    ("broadcast_vector", "one for all", "shared", 16, 1, 1, 1),
]


@pytest.mark.parametrize(("kernel", "mark", "array", "size", "requests", "units", "ideal"), EXPECTED)
def test_requests_at_a_line(
    meter: Meter, kernel: str, mark: str, array: str, size: int, requests: int, units: int, ideal: int
) -> None:
    (launch,) = measured(meter, kernel)
    found = at(launch, mark, array)
    assert found.size == size
    assert (found.requests, found.units, found.ideal) == (WARPS * requests, WARPS * units, WARPS * ideal)
    assert found.bytes == WARPS * 32 * size * requests
    assert found.partial == 0


def test_a_launch_is_described(meter: Meter) -> None:
    (launch,) = measured(meter, "read_banks<2>")
    assert launch.kernel == "read_banks<2u>"
    assert (launch.grid, launch.threads, launch.dynamic_shared) == ((BLOCKS, 1, 1), THREADS, 2 * THREADS * 16)
    assert launch.barriers == BLOCKS
    assert launch.shared(write=False) == (2 * WARPS, WARPS)
    assert launch.shared(write=True) == (WARPS, WARPS)


def test_each_launch_counts_for_itself(meter: Meter) -> None:
    alone = [measured(meter, kernel)[0] for kernel in ("copy_dense", "read_twice")]
    assert [launch.kernel for launch in alone] == ["copy_dense", "read_twice"]
    assert list(measured(meter, "copy_dense", "read_twice")) == alone


# kernel, elements past a boundary of 16 bytes; of what it reads, in bytes: what lanes ask for once, the sectors that
# hold it, what passes between L2 and the blocks, requests.
TRAFFIC = [
    ("copy_dense", 0, 512, 512, 512, 512),
    ("copy_dense", 1, 512, 544, 576, 640),  # a sector more of all, of each block, of each warp
    ("copy_few", 0, 48, 64, 96, 96),  # the sector in the middle is of both blocks
    ("read_by_all", 0, 256, 256, 512, 512),
    ("read_twice", 0, 512, 512, 512, 1024),
    ("copy_scalars", 0, 2048, 2048, 2048, 8192),
]


@pytest.mark.parametrize("kernel, offset, bytes, floor, l2, l1", TRAFFIC)
def test_traffic_of_an_array(meter: Meter, kernel: str, offset: int, bytes: int, floor: int, l2: int, l1: int) -> None:
    (launch,) = measured(meter, kernel, offset=offset)
    read = launch.traffic("in")
    assert (read.distinct_bytes, read.floor, read.l2, read.l1) == (bytes, floor, l2, l1)


def test_what_blocks_write_in_parts_is_counted_as_what_they_read(meter: Meter) -> None:
    for kernel, times in (("copy_scalars", 4), ("copy_dense", 1), ("read_twice", 1)):
        written = measured(meter, kernel)[0].traffic("out", write=True)
        assert (written.l2, written.l1) == (written.floor, times * written.floor), kernel


def test_what_lies_apart_takes_eight_times_its_bytes(meter: Meter) -> None:
    (launch,) = measured(meter, "store_strided")
    written = launch.traffic("out", write=True)
    assert written.distinct_bytes == BLOCKS * THREADS * 4
    assert written.floor == written.l2 == written.l1 == 8 * written.distinct_bytes


def test_a_misaligned_array_takes_one_more_sector_of_each_request(meter: Meter) -> None:
    (launch,) = measured(meter, "copy_dense", offset=1)
    assert at(launch, "dense read").units == WARPS * 5
    assert at(launch, "dense read").ideal == WARPS * 4


def test_asynchronous_copies_are_reads_and_writes_of_16_bytes(meter: Meter) -> None:
    (launch,) = measured(meter, "copy_async")
    copies = [one for one in launch.instructions if one.callers == (line_of("asynchronous copy"),)]
    assert [(one.array, one.write, one.size) for one in copies] == [("in", False, 16), ("shared", True, 16)]
    assert [(one.requests, one.units, one.ideal) for one in copies] == [(WARPS, 64, 64), (WARPS, 16, 16)]


@pytest.mark.parametrize(
    ("kernel", "rows", "units", "ideal"),
    [
        ("load_rows<1, 1>", 8, 1, 1),  # a wavefront for each matrix
        ("load_rows<2, 1>", 16, 2, 2),
        ("load_rows<4, 1>", 32, 4, 4),
        ("load_rows<4, 4>", 32, 16, 4),  # rows whose distance is a divisor of 128 bytes share banks
    ],
)
def test_matrices_are_loaded_in_wavefronts_of_eight_rows(
    meter: Meter, kernel: str, rows: int, units: int, ideal: int
) -> None:
    (launch,) = measured(meter, kernel)
    found = at(launch, "rows of matrices", "shared")
    assert (found.size, found.requests, found.bytes) == (16, WARPS, WARPS * rows * 16)
    assert (found.units, found.ideal) == (WARPS * units, WARPS * ideal)


def test_tensor_instructions_count_once_for_a_warp(meter: Meter) -> None:
    assert [launch.tensor_instructions for launch in measured(meter, "load_rows<4, 1>", "copy_dense")] == [2 * WARPS, 0]


# kernel, mark, array; requests and sectors for each warp, and whether lanes are lacking.
DIVERGENT = [
    ("diverge_in_rounds", "rounds", "in", 3, 12, True),
    ("diverge_in_rounds", "after the rounds", "out", 1, 4, False),
    ("diverge_in_turns", "turns", "in", 4, 16, True),
    ("diverge_in_two_ways", "first way", "in", 1, 4, True),
    ("diverge_in_two_ways", "second way", "in", 1, 4, True),
    ("diverge_in_two_ways", "after both ways", "out", 1, 4, False),
]


@pytest.mark.parametrize(("kernel", "mark", "array", "requests", "sectors", "lacking"), DIVERGENT)
def test_lanes_that_part_meet_again(
    meter: Meter, kernel: str, mark: str, array: str, requests: int, sectors: int, lacking: bool
) -> None:
    (launch,) = measured(meter, kernel)
    found = at(launch, mark, array)
    assert (found.requests, found.partial) == (WARPS * requests, WARPS * requests * lacking)
    assert found.units == WARPS * sectors


def test_other_memory_does_not_count(meter: Meter) -> None:
    library, (data, out) = ctypes.CDLL(str(meter.path)), torch.zeros(2, 8 * BLOCKS * THREADS)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (data, out)]
    (launch,) = meter.measure(lambda: library.run(b"copy_dense", *pointers, 0), out=out)
    assert {one.array for one in launch.instructions} == {"out"}
    library.run(b"copy_dense", *pointers, 0)
    assert meter.measure(lambda: None, out=out) == ()


@pytest.mark.parametrize("order", ["reverse", "random"])
def test_the_order_of_threads_changes_nothing(meter: Meter, order: str) -> None:
    kernels = ("copy_dense", "read_banks<8>", "copy_async", "diverge_in_rounds", "diverge_in_two_ways")
    assert measured(meter, *kernels, order=order) == measured(meter, *kernels)
