"""What a translation must do, over random sizes, types, layouts and slices, on each implementation.

Notation: M(s) W is `fourier_shift(W, s)`. Along an axis of odd size M(s) is orthogonal and M(s) M(t) = M(s + t): its
eigenvalues exp(-2 pi i f s) come in conjugate pairs. Along an even size the real part is taken of a phase at the
Nyquist frequency that has no partner, and neither holds.

A failure prints the example as a line of Python, `problem=Problem(...)`; see strategies.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from strategies import Problem, problems
from torch import Tensor

import crossd_ops

EXAMPLES = 60
EMULATED_EXAMPLES = 8  # the emulator takes a thread of the device at a time
EXACT = (torch.float64, torch.float32)

# The fixture `backend` puts one implementation in force for all examples of a test, which is what is wanted.
examples = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
few_examples = settings(examples, max_examples=EMULATED_EXAMPLES)

pytestmark = pytest.mark.usefixtures("compiled_library")


def shifted(problem: Problem, weight: Tensor, shift: Tensor) -> Tensor:
    """The problem's slice, or all, of M(s) W."""
    if problem.index is None:
        return crossd_ops.fourier_shift(weight, shift)
    return crossd_ops.fourier_shift_slice(weight, shift, dim=problem.dim, index=problem.index)


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype, terms: int = 1) -> None:
    """Within the rounding of `terms` sums and of the stored type.

    A tap is a mean of K unit numbers and a line of taps has norm 1, so an output is a sum of products bounded by the
    norm of the weight's line, formed along three axes: a few units in the last place of the type that it is summed in,
    at the size of the largest value.
    """
    computed = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps
    size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    tolerance = terms * (64 * computed + torch.finfo(dtype).eps) * size
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=tolerance)


@pytest.fixture(params=["reference", "compiled"])
def quick_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The implementations that take many examples."""
    with crossd_ops.use_backend(request.param):
        yield request.param


@given(problem=problems(whole=True))
@examples
def test_shift_by_integers_is_roll(quick_backend: str, problem: Problem) -> None:
    weight, shift = problem.weight(), problem.shift().round()
    got = crossd_ops.fourier_shift(weight, shift)
    for sample in range(problem.samples):
        rolled = weight.roll(shift[sample].int().tolist(), (2, 3, 4))
        assert_close(got[sample], rolled, problem.dtype)


@given(problem=problems(odd=True, whole=True, dtypes=EXACT))
@examples
def test_shift_and_back_is_the_identity_for_odd_sizes(quick_backend: str, problem: Problem) -> None:
    weight, shift = problem.weight(), problem.shift()[:1]
    there = crossd_ops.fourier_shift(weight, shift)[0]
    assert_close(crossd_ops.fourier_shift(there, -shift)[0], weight, problem.dtype, terms=2)


@given(problem=problems(odd=True, dtypes=EXACT))
@examples
def test_shifts_add_for_odd_sizes(quick_backend: str, problem: Problem) -> None:
    weight, first, second = problem.weight(), problem.shift()[:1], problem.shift(seed=1)[:1]
    # Of float32 shifts the sum is rounded: exact here, as both are multiples of 2^-10.
    first, second = ((1024 * shift).round() / 1024 for shift in (first, second))
    twice = shifted(problem, crossd_ops.fourier_shift(weight, first)[0], second)
    assert_close(twice, shifted(problem, weight, first + second), problem.dtype, terms=2)


@given(problem=problems(dtypes=EXACT))
@examples
def test_linear_in_the_weight(quick_backend: str, problem: Problem) -> None:
    first, second, shift = problem.weight(), problem.weight(seed=1), problem.shift()
    got = shifted(problem, 2 * first - second, shift)
    assert_close(got, 2 * shifted(problem, first, shift) - shifted(problem, second, shift), problem.dtype, terms=4)


@given(problem=problems(dtypes=EXACT))
@examples
def test_backward_is_the_adjoint(quick_backend: str, problem: Problem) -> None:
    """<M W, g> = <W, M^T g>: the gradient in the weight is the transpose of the forward."""
    weight, shift = problem.weight().requires_grad_(), problem.shift()
    out = shifted(problem, weight, shift)
    grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(problem.seed))
    (grad_weight,) = torch.autograd.grad(out, weight, grad)
    forward = (out.detach().double() * grad.double()).sum()
    backward = (weight.detach().double() * grad_weight.double()).sum()
    scale = float(out.detach().double().norm() * grad.double().norm()) + 1
    assert abs(float(forward - backward)) <= 64 * torch.finfo(problem.dtype).eps * scale


@given(problem=problems(odd=True, whole=True, dtypes=EXACT))
@examples
def test_norms_are_kept_for_odd_sizes(quick_backend: str, problem: Problem) -> None:
    weight = problem.weight()
    got = crossd_ops.fourier_shift(weight, problem.shift()).double().flatten(3).norm(dim=-1)
    expected = weight.double().flatten(2).norm(dim=-1).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=64 * torch.finfo(problem.dtype).eps, atol=0)


@given(problem=problems(dtypes=EXACT))
@examples
def test_a_shift_by_the_size_changes_nothing(quick_backend: str, problem: Problem) -> None:
    weight, shift = problem.weight(), (64 * problem.shift()).round() / 64
    turns = torch.tensor([[1, -2, 3]]) * torch.tensor(problem.kernel)
    got = shifted(problem, weight, shift + turns)
    # torch.fft's phase s . f is rounded where it is large; the kernels take whole turns away first.
    rounded = int((shift + turns).abs().sum(1).max()) if quick_backend == "reference" else 0
    assert_close(got, shifted(problem, weight, shift), problem.dtype, terms=2 + rounded)


@given(problem=problems())
@examples
def test_the_slice_is_that_of_the_whole(quick_backend: str, problem: Problem) -> None:
    weight, shift = problem.weight(), problem.shift()
    assert problem.index is not None
    whole = crossd_ops.fourier_shift(weight, shift).select(3 + problem.dim, problem.index)
    assert_close(shifted(problem, weight, shift), whole, problem.dtype)


def results(problem: Problem, backend: str) -> list[Tensor]:
    """Output and both gradients."""
    weight, shift = problem.weight().requires_grad_(), problem.shift().requires_grad_()
    with crossd_ops.use_backend(backend):
        out = shifted(problem, weight, shift)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(problem.seed)).to(out.dtype)
        return [out.detach(), *torch.autograd.grad(out, (weight, shift), grad)]


def assert_agrees_with_reference(problem: Problem, backend: str) -> None:
    of_weight, of_shift = problem.samples * max(problem.kernel), problem.out_channels * problem.in_channels
    pairs = zip(results(problem, backend), results(problem, "reference"), strict=True)
    for (got, expected), terms in zip(pairs, (1, of_weight, of_shift), strict=True):
        assert got.dtype is expected.dtype
        assert_close(got, expected, got.dtype, terms=2 * terms)


@given(problem=problems() | problems(whole=True))
@examples
def test_compiled_agrees_with_reference(problem: Problem) -> None:
    assert_agrees_with_reference(problem, "compiled")


@pytest.mark.parametrize("backend", ["emulated"], indirect=True)
@given(problem=problems(largest=7, most=3) | problems(largest=5, most=2, whole=True))
@few_examples
def test_emulated_agrees_with_reference(backend: str, problem: Problem) -> None:
    assert_agrees_with_reference(problem, backend)


@given(problem=problems(largest=7, dtypes=EXACT))
@settings(examples, max_examples=6)
def test_opcheck(problem: Problem) -> None:
    """Schema, fake tensors and autograd registration of the operator itself."""
    weight, shift = problem.weight(), problem.shift()
    arguments = (weight, shift, problem.dim, problem.index, problem.dtype)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.crossd_ops.fourier_shift.default, arguments, test_utils=tests)
    out = torch.ops.crossd_ops.fourier_shift(*arguments)
    backward = (torch.randn_like(out), weight, shift, problem.dim, problem.index, True, True)
    torch.library.opcheck(torch.ops.crossd_ops.fourier_shift_backward.default, backward, test_utils=tests)


def test_a_failure_is_reproduced_by_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What hypothesis prints of a failing example makes the same example."""
    tried: list[Problem] = []

    @given(problem=problems())
    @settings(max_examples=20)
    def fails_for_half_types(problem: Problem) -> None:
        tried.append(problem)
        assert problem.dtype.itemsize > 2

    with pytest.raises(AssertionError) as error:
        fails_for_half_types()
    printed = "\n".join(getattr(error.value, "__notes__", [])) + capsys.readouterr().out  # Python 3.10 has no notes
    lines = re.findall(r"^ *problem=(.+),$", printed, re.MULTILINE)
    assert len(lines) == 1, printed
    again = eval(lines[0])
    assert again == tried[-1] and again.dtype.itemsize == 2
    assert torch.equal(again.weight(), tried[-1].weight()) and torch.equal(again.shift(), tried[-1].shift())
