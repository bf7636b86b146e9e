"""The CUDA kernels of shifted columns and of their gradients, run by the emulator, and under sanitizers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from emulator.build import EMULATOR, RUNS, assert_kernels_pass, compile_program, why_not
from emulator.shifted_columns_harness import EmulatedShiftedColumns
from emulator.shifted_columns_metering import ShiftedColumnsCase

from benchmarks.gpu.prediction import bounds
from benchmarks.gpu.prediction.convolution_models.shifted_columns import (
    ShiftedProblem,
    image_from_seen_launches,
    shifted_columns_launches,
    shifted_gradient_launches,
)
from benchmarks.gpu.prediction.launches import Launch
from crossd_ops.reference import fourier_shift

CHECK = EMULATOR / "shifted_columns_check.cpp"


@pytest.mark.parametrize("variant", RUNS)
def test_columns_and_gradients_agree_with_the_definition(variant: str) -> None:
    """In three orders of threads, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_kernels_pass(compile_program(CHECK, variant), variant)


@pytest.mark.parametrize("place", [None, (0, 1), (1, 0), (2, 2)], ids=str)
def test_a_convolution_is_what_torch_has_of_shifted_weights(place: tuple[int, int] | None) -> None:
    """Another's definition: the columns times the weight as it lies, and all gradients, in float64."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    sides = (5, 4) if place else (4, 3, 5)
    layout = torch.channels_last if place else torch.channels_last_3d
    image = torch.randn(2, 6, *sides, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, 3, dtype=torch.float64)
    shift = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    kernels = fourier_shift(weight, shift)
    if place:
        kernels = kernels.select(3 + place[0], place[1])
    convolve = F.conv2d if place else F.conv3d
    expected = torch.cat([convolve(image[i : i + 1], kernels[i], None, 2, 1, 1, 2) for i in range(2)])
    grad = torch.randn_like(expected)
    of_image, of_shift = torch.autograd.grad(expected, (image, shift), grad)

    emulated = EmulatedShiftedColumns()
    problem = emulated.problem(image, (3, 3, 3), place, stride=2, padding=1, groups=2)
    matrices = weight.reshape(2, 2, 3, 27).transpose(2, 3).flatten(2)  # of groups, in the order of the columns
    columns = emulated.image_to_columns(problem, image.detach(), shift.detach())
    found = torch.einsum("rgi,goi->rgo", columns.flatten(2), matrices)
    rows = expected.movedim(1, -1).reshape(-1, 2, 2)
    torch.testing.assert_close(found, rows)
    grad_columns = torch.einsum("rgo,goi->rgi", grad.movedim(1, -1).reshape(-1, 2, 2), matrices).contiguous()
    seen, found_shift = emulated.gradient(problem, grad_columns, image.detach(), shift.detach())
    torch.testing.assert_close(found_shift, of_shift)
    found_image = torch.full_like(image.detach(), float("nan"))
    emulated.seen_to_image(problem, seen, found_image)
    torch.testing.assert_close(found_image, of_image)


@pytest.mark.parametrize("size", [2, 9])
def test_weights_of_other_sizes_are_refused(size: int) -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    emulated, image = EmulatedShiftedColumns(), torch.zeros(1, 1, 9, 9)
    problem = emulated.problem(image, (3, size, 3), (0, 1))
    with pytest.raises(RuntimeError, match="expected shifted columns of odd sizes up to 7, and a shift of their type"):
        emulated.image_to_columns(problem, image, torch.zeros(1, 3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("direction", ["forward", "backward", "image"])
def test_launches_of_the_prediction_are_those_of_the_launcher(direction: str, volume: bool, dtype: str) -> None:
    """Blocks and bytes, where blocks share a sample; the loops' stores are what a warp's rounds make."""
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    channels, side = (48, 4) if volume else (96, 6)
    depth, before = (side, 1) if volume else (1, 0)
    problem = ShiftedProblem(
        2, channels, 1, (depth, side, side), (3, 3, 3), (3 if volume else 1, 3, 3), (depth, side, side), (1, 1, 1),
        (before, 1, 1), (1, 1, 1), dtype,
    )  # fmt: skip
    (wanted,) = {
        "forward": lambda: shifted_columns_launches(problem),
        "backward": lambda: shifted_gradient_launches(problem, True, True),
        "image": lambda: image_from_seen_launches(problem),
    }[direction]()
    (got,) = ShiftedColumnsCase(2, channels, side, image=getattr(torch, dtype), volume=volume).measure(direction)
    assert isinstance(wanted, Launch)
    assert (got.kernel, got.blocks, got.threads) == (wanted.kernel, wanted.blocks, wanted.threads)
    assert {one.array: one.distinct_bytes for one in got.arrays} == wanted.arrays
    if direction != "image":
        counts = bounds.instructions(wanted, bounds.read_table()["kernels"]["sm_90"][wanted.kernel])
        requests = sum(one.requests for one in got.instructions if one.array in ("columns", "seen", "image"))
        assert requests <= counts["global"] <= 1.3 * requests  # outside of the image nothing is asked for
