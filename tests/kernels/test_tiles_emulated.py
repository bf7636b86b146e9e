"""The convolution in tiles on tensor cores, run by the emulator, and under sanitizers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from emulator.build import EMULATOR, compile_program, run_program, why_not
from emulator.metering import SECTOR_BYTES
from emulator.tiles_harness import EmulatedTiles
from emulator.tiles_metering import TilesCase
from torch import Tensor

from benchmarks.gpu.prediction import bounds, launches, tiles_models

CHECK = EMULATOR / "tiles_check.cpp"


@pytest.mark.parametrize(
    ("variant", "options"),
    [("plain", ()), ("address", ("--one-order", "brief")), ("thread", ("--one-order", "brief"))],
)
def test_kernels_agree_with_the_definition(variant: str, options: tuple[str, ...]) -> None:
    """In three orders of threads and tiles of both sizes, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    process = run_program(compile_program(CHECK, variant), *options)
    assert process.returncode == 0, process.stdout[-3000:]
    assert process.stdout.splitlines()[-1].startswith("0 of ")


def tensors(channels: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """An image, tap-major kernels of two groups, and a bias."""
    image = torch.randn(2, channels, 9, 7).bfloat16().contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(2, 3, 5, 16, channels // 2).bfloat16().permute(0, 3, 4, 1, 2)
    return image, kernels, torch.randn(16).bfloat16()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_batch_is_what_torch_convolves_sample_by_sample(with_bias: bool, dtype: torch.dtype) -> None:
    """Another's definition."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    image, kernels, bias = (tensor.to(dtype) for tensor in tensors(channels=48))
    image, kernels = image + torch.randn(()).to(dtype), kernels + torch.randn(()).to(dtype)
    numbers = 2, 2, 1, 2  # stride, padding, dilation, groups
    found = EmulatedTiles().convolve(image, kernels, bias if with_bias else None, *numbers)
    for sample in range(2):
        wide = image[sample : sample + 1].double(), kernels[sample].double()
        expected = F.conv2d(*wide, bias.double() if with_bias else None, *numbers)
        torch.testing.assert_close(found[sample : sample + 1].double(), expected, rtol=2**-8, atol=1e-2)


def test_arrays_are_moved_as_often_as_tiles_need_them() -> None:
    """Of two whole tiles of channels and three of pixels for each sample; shared memory has no conflicts."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    (launch,) = TilesCase(samples=2, in_channels=32, out_channels=128, side=12).measure()
    assert launch.blocks == 2 * 2 * 3
    out, kernels, input = launch.traffic("out", write=True), launch.traffic("kernels"), launch.traffic("input")
    assert out.moved == out.distinct_bytes == out.size
    assert kernels.distinct_bytes == kernels.size and kernels.moved == 3 * kernels.size
    assert input.distinct_bytes == input.size and input.moved <= 9 * 2 * input.size
    # A tile's pixels and those around them: eight of twelve rows at most.
    assert input.block_sectors * SECTOR_BYTES <= 3 * 2 * input.size * 8 / 12
    for write in (False, True):
        wavefronts, ideal = launch.shared(write)
        assert wavefronts == ideal > 0


def tiles_problem(
    samples: int, in_channels: int, out_channels: int, side: int, dtype: str = "bfloat16"
) -> tiles_models.TilesProblem:
    """Of kernels 3 x 3 between borders, and a bias."""
    pixels, taps = side * side, 9
    elements = {"input": samples * in_channels * pixels, "kernels": samples * in_channels * out_channels * taps}
    elements |= {"bias": out_channels, "out": samples * out_channels * pixels}
    arrays = {name: launches.TYPES[dtype][1] * count for name, count in elements.items()}
    return tiles_models.TilesProblem(samples, 1, in_channels, out_channels, pixels, taps, dtype, arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_launches_of_tiles_are_those_of_the_launcher(dtype: str) -> None:
    """Blocks, bytes and wavefronts that the prediction has, and tensor instructions of the machine code."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    sizes = 2, 8, 128, 8  # whole tiles
    case = TilesCase(*sizes, image=getattr(torch, dtype))
    (expected,), (got,) = tiles_models.tiles_launches(tiles_problem(*sizes, dtype)), case.measure()
    assert (got.kernel, got.blocks, got.threads) == (expected.kernel, expected.blocks, expected.threads)
    assert {one.array: one.distinct_bytes for one in got.arrays} == expected.arrays
    assert got.shared(write=False)[0] + got.shared(write=True)[0] == expected.wavefronts
    counts = bounds.instructions(expected, bounds.read_table()["kernels"]["sm_90"][expected.kernel])
    assert counts["tensor"] == got.tensor_instructions


def test_tiles_are_as_large_as_in_the_plan() -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    plan, rows = EmulatedTiles(), set()
    for samples, side, out_channels in itertools.product((1, 40, 300, 512), (3, 7, 8, 9, 11, 31, 56), (8, 64, 72)):
        problem = tiles_problem(samples, 8, out_channels, side)
        assert problem.rows == plan.rows_of_tile(samples, side * side, out_channels)
        rows.add(problem.rows)
    assert rows == {64, 128}


@pytest.mark.parametrize("fault", ["float64", "channels", "address"])
def test_what_is_no_whole_vector_is_refused(fault: str) -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    image, kernels, _ = tensors()
    if fault == "float64":
        image, kernels = image.double(), kernels.double()
    elif fault == "channels":
        image, kernels = image[:, :8], kernels[:, :, :4]
    else:
        image = torch.zeros(2, 17, 9, 7).bfloat16().contiguous(memory_format=torch.channels_last)[:, 1:]
    with pytest.raises(RuntimeError, match="expected tiles of a half type or float32, in whole vectors of channels"):
        EmulatedTiles().convolve(image, kernels, groups=2)
