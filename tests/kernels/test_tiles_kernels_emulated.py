"""The gradient of the kernels of the convolution in tiles, run by the emulator, and under sanitizers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from emulator.build import EMULATOR, RUNS, assert_kernels_pass, compile_program, why_not
from emulator.tiles_kernels_harness import EmulatedTilesKernels, TilesKernelsProblem
from emulator.tiles_kernels_metering import TilesKernelsCase
from torch import Tensor

from benchmarks.gpu.prediction import bounds, launches, tiles_models

CHECK = EMULATOR / "tiles_kernels_check.cpp"


@pytest.mark.parametrize("variant", RUNS)
def test_gradients_agree_with_the_definition(variant: str) -> None:
    """In three orders of threads and tiles of both sizes, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_kernels_pass(compile_program(CHECK, variant), variant)


def tensors(side: int = 9, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """A gradient and an image, of two groups, channels-last."""
    image = torch.randn(2, 48, side, 7)
    grad = torch.randn(2, 16, (side - 1) // 2 + 1, 3)
    grad, image = (tensor.to(dtype).contiguous(memory_format=torch.channels_last) for tensor in (grad, image))
    return grad, image


@pytest.mark.parametrize(("side", "dtype"), [(9, torch.bfloat16), (401, torch.bfloat16), (401, torch.float32)])
def test_a_batch_is_what_torch_has_sample_by_sample(side: int, dtype: torch.dtype) -> None:
    """Another's definition, also where blocks share the pixels of a sample."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    grad, image = tensors(side, dtype)
    numbers = 2, 1, 1, 2  # stride, padding, dilation, groups
    found = EmulatedTilesKernels().gradient(grad, image, (3, 5), *numbers)
    for sample in range(2):
        kernels = torch.zeros(16, 24, 3, 5, dtype=torch.float64, requires_grad=True)
        F.conv2d(image[sample : sample + 1].double(), kernels, None, *numbers).backward(
            grad[sample : sample + 1].double()
        )
        torch.testing.assert_close(
            found[sample].double(), kernels.grad, rtol=2**-8, atol=1e-2 if dtype is torch.bfloat16 else 5e-2
        )


def problem_of(
    samples: int, in_channels: int, out_channels: int, side: int, taps: int = 9, dtype: str = "bfloat16"
) -> tiles_models.TilesKernelsProblem:
    """Between borders that keep the size."""
    pixels = side * side
    elements = {"input": samples * in_channels * pixels, "grad": samples * out_channels * pixels}
    elements["grad_kernels"] = samples * in_channels * out_channels * taps
    arrays = {name: launches.TYPES[dtype][1] * count for name, count in elements.items()}
    return tiles_models.TilesKernelsProblem(samples, 1, in_channels, out_channels, pixels, taps, dtype, arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", [(2, 64, 64, 8), (32, 64, 64, 6), (1, 64, 64, 24), (11, 64, 64, 23)])
def test_launches_of_the_prediction_are_those_of_the_launcher(sizes: tuple[int, int, int, int], dtype: str) -> None:
    """Narrow and wide tiles, shared pixels, halved steps: blocks, bytes, wavefronts, and machine code's products."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    expected = tiles_models.tiles_kernels_launches(problem_of(*sizes, dtype=dtype))
    got = TilesKernelsCase(*sizes, image=getattr(torch, dtype)).measure()
    assert [(one.kernel, one.blocks, one.threads) for one in got] == [
        (one.kernel, one.blocks, one.threads) for one in expected
    ]
    for wanted, launch in zip(expected, got, strict=True):
        assert {one.array: one.distinct_bytes for one in launch.arrays} == wanted.arrays
        assert launch.shared(write=False)[0] + launch.shared(write=True)[0] == (wanted.wavefronts or 0)
        counts = bounds.instructions(wanted, bounds.read_table()["kernels"]["sm_90"][wanted.kernel])
        assert counts.get("tensor", 0) == launch.tensor_instructions


def test_gradients_are_written_once_and_shared_memory_has_no_conflicts() -> None:
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    (launch,) = TilesKernelsCase(samples=2, in_channels=64, out_channels=128, side=9).measure()
    assert launch.blocks == 2 * 2 * 9
    written, grad = launch.traffic("grad_kernels", write=True), launch.traffic("grad")
    assert written.l1 == written.distinct_bytes == written.size
    assert grad.l1 == 9 * grad.size
    for write in (False, True):
        wavefronts, ideal = launch.shared(write)
        assert wavefronts == ideal > 0


def test_plans_are_those_of_the_prediction() -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    tiles, plans = EmulatedTilesKernels(), set()
    for samples, side, channels, kernel in itertools.product((0, 1, 4, 32), (3, 7, 14, 56), (8, 64, 72, 512), (1, 3)):
        problem = TilesKernelsProblem(samples, 1, channels, channels)
        problem.result[:] = side, side
        problem.kernel[:] = kernel, kernel
        *plan, of_split, halved_steps = tiles.plan(problem)
        plan.append(halved_steps)
        assert problem_of(samples, channels, channels, side, kernel * kernel).plan == tuple(plan)
        assert (plan[2] - 1) * of_split < side * side <= plan[2] * of_split and of_split % 32 == 0
        plans.add((plan[0], plan[2] > 1, plan[3]))
    assert plans == {(1, False, 0), (1, False, 1), (1, True, 0), (1, True, 1), (3, False, 0), (3, False, 1)}


@pytest.mark.parametrize("fault", ["float64", "channels", "address", "partial"])
def test_what_is_no_whole_vector_is_refused(fault: str) -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    grad, image = tensors()
    tiles, message = EmulatedTilesKernels(), "expected tiles of a half type or float32, in whole vectors of channels"
    if fault == "float64":
        grad, image = grad.double(), image.double()
    elif fault == "channels":
        grad, image = grad[:, :8], image[:, :24]
    elif fault == "address":
        image = torch.zeros(2, 49, 9, 7).bfloat16().contiguous(memory_format=torch.channels_last)[:, 1:]
    else:
        grad, image = tensors(401)
        tiles.plan = lambda problem: (1, 1, 1, 0, 0)  # type: ignore[method-assign]
        message = "expected memory for sums where blocks share pixels, and only there"
    with pytest.raises(RuntimeError, match=message):
        tiles.gradient(grad, image, (3, 5), 2, 1, 1, 2)
