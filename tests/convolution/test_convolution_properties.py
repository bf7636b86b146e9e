"""The per-sample convolution over random sizes, types, layouts, slices and numbers: one convolution for each sample."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LAYOUTS, Problem, laid_out, problems
from torch import Tensor

import crossd_ops

pytestmark = pytest.mark.usefixtures("compiled_library")

EXACT = (torch.float64, torch.float32)

# A shifted weight, and what convolves with it.
cases: dict[str, Any] = {
    "problem": problems(largest=5, dtypes=EXACT) | problems(largest=4, dtypes=EXACT, most=3, whole=True),
    "groups": st.integers(1, 3),
    "numbers": st.tuples(*(st.tuples(*(st.integers(low, low + 2),) * 3) for low in (1, 0, 1))),
    "room": st.tuples(*(st.integers(0, 12),) * 3),
    "layout": st.sampled_from(LAYOUTS),
}


def arguments(
    problem: Problem, groups: int, numbers: tuple[tuple[int, ...], ...], room: tuple[int, ...], layout: str
) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Input, weight, shift and bias; stride, padding, dilation and groups."""
    weight, shift = torch.cat([problem.weight(seed) for seed in range(groups)]), problem.shift()
    kernel = [size for axis, size in enumerate(problem.kernel) if problem.index is None or axis != problem.dim]
    stride, padding, dilation = (each[: len(kernel)] for each in numbers)
    # As many pixels as a kernel reaches over, and `room` more.
    sizes = [
        max(1, rate * (size - 1) + 1 + more - 2 * pad)
        for size, rate, pad, more in zip(kernel, dilation, padding, room[: len(kernel)], strict=True)
    ]
    shape = (problem.samples, problem.in_channels * groups, *sizes)
    values = torch.Generator().manual_seed(problem.seed)
    input = laid_out(shape, layout, problem.dtype, values)
    bias = torch.randn(len(weight), dtype=problem.dtype, generator=values)
    return [input, weight, shift, bias], (stride, padding, dilation, groups)


def shifted(problem: Problem, weight: Tensor, shift: Tensor) -> Tensor:
    """Kernels of each sample, by torch.fft."""
    with crossd_ops.use_backend("reference"):
        if problem.index is None:
            return crossd_ops.fourier_shift(weight, shift)
        return crossd_ops.fourier_shift_slice(weight, shift, dim=problem.dim, index=problem.index)


def with_gradients(output: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output, *torch.autograd.grad((output * weights).sum(), tensors)


@given(**cases)
@settings(max_examples=60)
def test_equals_one_convolution_for_each_sample(problem: Problem, **rest: Any) -> None:
    tensors, numbers = arguments(problem, **rest)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    input, weight, shift, bias = tensors
    if problem.index is None:
        found = crossd_ops.crossd_conv3d(input, weight, shift, bias, *numbers)
    else:
        found = crossd_ops.crossd_conv2d(input, weight, shift, bias, *numbers, dim=problem.dim, index=problem.index)
    # The expected values of a float32 problem in float64 as well.
    doubles = [tensor.detach().double().requires_grad_() for tensor in tensors]
    convolve = F.conv3d if problem.index is None else F.conv2d
    kernels = shifted(problem, *doubles[1:3])
    rows = zip(doubles[0].split(1), kernels, strict=True)
    wanted = torch.cat([convolve(row, kernel, doubles[3], *numbers) for row, kernel in rows])
    digits = 1e-11 if problem.dtype is torch.float64 else 1e-4
    for got, expected in zip(with_gradients(found, tensors), with_gradients(wanted, doubles), strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=digits * scale)


@given(**cases)
@settings(max_examples=6)
def test_opcheck(problem: Problem, **rest: Any) -> None:
    """Schemas, fake tensors and tracing of both operators."""
    (input, weight, shift, bias), numbers = arguments(problem, **rest)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    operators = torch.ops.crossd_ops
    *lists, group_count = numbers
    place = [*itertools.chain(*lists), group_count]
    place += [] if problem.index is None else [problem.dim, problem.index]
    torch.library.opcheck(operators.convolution.default, (input, weight, shift, bias, place), test_utils=tests)
    grad = torch.randn_like(operators.convolution(input, weight, shift, bias, place))
    for needs in ((True, True, True), (False, True, False)):
        backward = (grad, input, weight, shift, place, *needs)
        torch.library.opcheck(operators.convolution_backward.default, backward, test_utils=tests)
