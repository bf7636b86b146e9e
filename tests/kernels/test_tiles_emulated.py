"""The convolution in tiles on tensor cores, run by the emulator, and under sanitizers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from emulator.build import EMULATOR, RUNS, assert_kernels_pass, compile_program, why_not
from emulator.tiles_harness import EmulatedTiles
from emulator.tiles_metering import TilesCase
from torch import Tensor

from benchmarks.gpu.prediction import bounds, launches, tiles_models


@pytest.mark.parametrize("check", ["tiles_check", "tiles_input_check"])
@pytest.mark.parametrize("variant", RUNS)
def test_kernels_agree_with_the_definition(check: str, variant: str) -> None:
    """In three orders of threads and tiles of both sizes, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_kernels_pass(compile_program(EMULATOR / f"{check}.cpp", variant), variant)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_gradient_of_the_input_is_what_torch_has(stride: int, dtype: torch.dtype) -> None:
    """Of pixels that no tap sees too."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    image, kernels, _ = (tensor.to(dtype) for tensor in tensors(channels=48))
    numbers = stride, 2, 1, 2  # padding, dilation, groups
    image, wide = image.double().requires_grad_(), kernels.double()
    result = torch.cat([F.conv2d(image[b : b + 1], wide[b], None, *numbers) for b in range(2)])
    grad = torch.randn(result.shape).to(dtype).contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(result, image, grad.double())
    found = EmulatedTiles().input_gradient(grad, kernels, (9, 7), *numbers)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_first_layer_is_that_of_pairs_of_pixels(dtype: torch.dtype) -> None:
    """Three channels, 7x7, a stride of 2, as csrc/convolution/padding has them: of seven taps four of eight numbers."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    image, kernels = torch.randn(2, 3, 12, 10).to(dtype), torch.randn(2, 16, 3, 7, 7).to(dtype)
    wide = image.double().requires_grad_()
    expected = torch.cat([F.conv2d(wide[b : b + 1], kernels[b].double(), None, 2, 3) for b in range(2)])
    pairs = F.pad(image, (3, 3, 0, 0, 0, 1)).unflatten(3, (8, 2)).permute(0, 4, 1, 2, 3).flatten(1, 2)
    pairs = pairs.contiguous(memory_format=torch.channels_last)
    taps = F.pad(kernels, (0, 1, 0, 0, 0, 1)).unflatten(4, (4, 2)).permute(0, 3, 4, 1, 5, 2).flatten(4).contiguous()
    taps = taps.permute(0, 3, 4, 1, 2)
    numbers = (2, 1), (3, 0)
    found = EmulatedTiles().convolve(pairs, taps, None, *numbers)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=2**-8, atol=1e-2)
    grad = torch.randn(expected.shape).to(dtype).contiguous(memory_format=torch.channels_last)
    back = EmulatedTiles().input_gradient(grad, taps, (12, 8), *numbers)
    of_pixels = back.unflatten(1, (2, 4)).permute(0, 2, 3, 4, 1).flatten(3)[:, :3, :, 3:13]
    (of_image,) = torch.autograd.grad(expected, wide, grad.double())
    torch.testing.assert_close(of_pixels.double(), of_image, rtol=2**-8, atol=1e-2)


def test_arrays_are_moved_as_often_as_tiles_need_them() -> None:
    """Of two whole tiles of channels and three of pixels for each sample; shared memory has no conflicts."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    (launch,) = TilesCase(samples=2, in_channels=32, out_channels=128, side=12).measure()
    assert launch.blocks == 2 * 2 * 3
    out, kernels, input = launch.traffic("out", write=True), launch.traffic("kernels"), launch.traffic("input")
    assert out.l1 == out.distinct_bytes == out.size
    assert kernels.distinct_bytes == kernels.size and kernels.l1 == 3 * kernels.size
    assert input.distinct_bytes == input.size and input.l1 <= 9 * 2 * input.size
    # A tile's pixels and those around them: eight of twelve rows at most.
    assert input.l2 <= 3 * 2 * input.size * 8 / 12
    for write in (False, True):
        wavefronts, ideal = launch.shared(write)
        assert wavefronts == ideal > 0


def test_the_gradient_of_the_input_reads_kernels_for_the_tiles_that_their_tap_sees() -> None:
    """Of stride 2, where a pixel is seen by one tap, two or four; a tile has all of a remainder's pixels."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    (launch,) = TilesCase(samples=2, in_channels=64, out_channels=32, side=16, stride=2).measure("input")
    assert launch.blocks == 2 * 4
    written, kernels = launch.traffic("grad_input", write=True), launch.traffic("kernels")
    assert written.l1 == written.distinct_bytes == written.size
    assert kernels.l1 == kernels.distinct_bytes == kernels.size
    grad = launch.traffic("grad")
    assert grad.distinct_bytes == grad.size and grad.l1 <= 9 * grad.size
    # Of pixels without a neighbour on one side, or on two.
    assert launch.tensor_instructions == 2 * 9 * 64 * 64 * 32 // (16 * 8 * 16)
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


@pytest.mark.parametrize(("dtype", "samples", "side"), [("bfloat16", 2, 8), ("float32", 2, 8), ("bfloat16", 17, 16)])
def test_launches_of_tiles_are_those_of_the_launcher(dtype: str, samples: int, side: int) -> None:
    """Blocks, bytes and wavefronts that the prediction has, and tensor instructions of the machine code; of small tiles
    and of large ones.
    """
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    sizes = samples, 8, 128, side  # whole tiles
    case = TilesCase(*sizes, image=getattr(torch, dtype))
    (expected,), (got,) = tiles_models.tiles_launches(tiles_problem(*sizes, dtype)), case.measure()
    assert (got.kernel, got.blocks, got.threads) == (expected.kernel, expected.blocks, expected.threads)
    assert {one.array: one.distinct_bytes for one in got.arrays} == expected.arrays
    assert got.shared(write=False)[0] + got.shared(write=True)[0] == expected.wavefronts
    counts = bounds.instructions(expected, bounds.read_table()["kernels"]["sm_90"][expected.kernel])
    assert counts["tensor"] == got.tensor_instructions


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("side", "stride"), [(8, 1), (16, 2)])
def test_launches_of_the_gradient_are_those_of_the_launcher(dtype: str, side: int, stride: int) -> None:
    """As above; of stride 2 every remainder has a whole tile, and its own taps."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    case = TilesCase(2, 128, 16, side, stride=stride, image=getattr(torch, dtype))
    pixels = side * side
    elements = {"grad": 16 * pixels // stride**2, "kernels": 128 * 16 * 9, "grad_input": 128 * pixels}
    arrays = {name: launches.TYPES[dtype][1] * 2 * count for name, count in elements.items()}
    axes = (side, side), (3, 3), (stride, stride), (1, 1), (1, 1)
    problem = tiles_models.TilesInputProblem(2, 1, 128, 16, *axes, dtype, arrays)
    (expected,), (got,) = tiles_models.tiles_input_launches(problem), case.measure("input")
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
    # ResNet-18's layers of 32 images: where pixels fill large tiles, or fewer turns make up for those that are empty.
    sizes = (56, 64), (28, 128), (14, 256), (7, 512)
    assert [plan.rows_of_tile(32, side * side, channels) for side, channels in sizes] == [128, 128, 128, 64]


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
    expected = "expected tiles of a half type or float32, in whole vectors of channels"
    with pytest.raises(RuntimeError, match=expected):
        EmulatedTiles().convolve(image, kernels, groups=2)
    with pytest.raises(RuntimeError, match=expected):
        EmulatedTiles().input_gradient(image, kernels, (11, 11), groups=2)
