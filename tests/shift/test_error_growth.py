"""How large errors grow: each type against float64, large and small numbers, shifts far from 0, NaN and infinity.

With u = eps / 2 the unit roundoff of the type that sums are formed in (float32, or float64), K the largest kernel size:

- A tap is (1 + 2 sum of K/2 cosines) / K, each cosine of an angle that whole turns were taken from before it was
  rounded: its error is at most 2 pi u / 2 for the angle and u for each rounding, about 10 u, whatever the shift. For
  float32 the CPU computes taps in float64, and rounds them once: u.
- The sum over one axis is of K products: an error of (10 + K) u sum |d w| <= (10 + K) u sqrt(K) |w|_max, since a row of
  taps has norm 1. Three axes, each of which amplifies what came before it by sqrt(K) at most:
  3 (10 + K) K^(3/2) u |w|_max. For K = 3 that is 203 u, for K = 15 in float64 4357 u. It is the worst case over all
  weights and shifts; errors of random sign add up to a small part of it.
- A gradient in the weight sums such errors over the samples, one in the shift over pairs and K^2 outputs, times the
  derivative's norm, pi at most. They are relative to the size of what is summed, not to what is left of it.
- Stored in a half type the result is rounded once more: half a unit in its last place, which is allowed for apart.

ENVELOPE, in units of u, is four times what was measured over these problems, rounded up: well inside the bounds above,
so that a kernel that becomes worse than that is seen.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops import reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KERNELS = ((3, 3, 3), (5, 5, 5), (7, 7, 7), (4, 4, 4), (15, 15, 15), (2, 3, 5))
ENVELOPE = {
    torch.float64: {"output": 96.0, "weight": 56.0, "shift": 8.0},
    torch.float32: {"output": 17.0, "weight": 11.0, "shift": 2.5},
}
FAR = (0.0, 1e3, 1e6)  # kernel elements

pytestmark = pytest.mark.usefixtures("compiled_library")


def summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def arguments(kernel: tuple[int, int, int], dtype: torch.dtype, far: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, shift and gradient of the output, in the types that they have in use; exact in float64 too."""
    weight = torch.randn(6, 5, *kernel).to(dtype)
    shift = (far + torch.randn(4, 3, dtype=torch.float64)).to(summed_in(dtype))
    return weight, shift, torch.randn(4, 6, 5, *kernel[1:]).to(dtype)


def derivatives(weight: Tensor, shift: Tensor, grad: Tensor) -> dict[str, Tensor]:
    weight, shift = weight.detach().requires_grad_(), shift.detach().requires_grad_()
    out = crossd_ops.fourier_shift_slice(weight, shift)
    grad_weight, grad_shift = torch.autograd.grad(out, (weight, shift), grad)
    return {"output": out.detach(), "weight": grad_weight, "shift": grad_shift}


def taps(size: int, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d(i - j; s) and its derivative in s, by their definition: (samples, size, size) for each, complex."""
    turn = 2 * np.longdouble("3.14159265358979323846264338327950288") / size
    frequencies = np.round(np.fft.fftfreq(size) * size).astype(np.longdouble)
    offsets = np.subtract.outer(np.arange(size), np.arange(size)).astype(np.longdouble)
    # Whole turns are taken away, exactly, before the product is rounded to an angle.
    steps = np.fmod(frequencies * np.fmod(offsets - shift[:, None, None], size)[..., None], size)
    waves = np.cos(turn * steps) + 1j * np.sin(turn * steps)
    return waves.sum(-1) / size, (-1j * turn * frequencies * waves).sum(-1) / size


def exact(weight: Tensor, shift: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """In extended precision, by the sums that define the operation; the middle slice of axis 0."""
    w, s, g = (tensor.double().numpy().astype(np.longdouble) for tensor in (weight, shift, grad))
    (d0, e0), (d1, e1), (d2, e2) = (taps(weight.shape[2 + axis], s[:, axis]) for axis in range(3))
    middle = weight.shape[2] // 2
    d0, e0 = d0[:, middle], e0[:, middle]

    def shifted(*of_axes: np.ndarray) -> np.ndarray:
        plane = np.einsum("bx,ocxYZ->bocYZ", of_axes[0], w)
        return np.einsum("bzZ,bocyZ->bocyz", of_axes[2], np.einsum("byY,bocYZ->bocyZ", of_axes[1], plane)).real

    back = np.einsum("byY,bocyZ->bocYZ", d1, np.einsum("bzZ,bocyz->bocyZ", d2, g))
    of_shift = [(g * shifted(*axes)).sum((1, 2, 3, 4)) for axes in ((e0, d1, d2), (d0, e1, d2), (d0, d1, e2))]
    results = {
        "output": shifted(d0, d1, d2),
        "weight": np.einsum("bx,bocYZ->ocxYZ", d0, back).real,
        "shift": np.stack(of_shift, -1),
    }
    return {name: torch.from_numpy(value.astype(np.float64)) for name, value in results.items()}


def magnitudes(weight: Tensor, grad: Tensor) -> dict[str, float]:
    """What the errors are relative to: the size of the terms that each result sums, not of what their sum leaves."""
    largest, largest_grad = float(weight.double().abs().max()), float(grad.double().abs().max())
    terms = grad[0].numel()
    return {
        "output": largest,
        "weight": largest_grad * math.sqrt(grad.shape[0]),
        "shift": math.pi * largest * largest_grad * math.sqrt(terms),
    }


def errors(got: dict[str, Tensor], expected: dict[str, Tensor], scale: dict[str, float]) -> dict[str, float]:
    """Of each result: its largest error beyond the rounding of the stored value, in units of u."""
    found = {}
    for name, value in got.items():
        half_ulp = torch.finfo(value.dtype).eps / 2 * expected[name].abs() + torch.finfo(value.dtype).smallest_normal
        stored = half_ulp if value.dtype not in (torch.float64, torch.float32) else 0.0
        beyond = ((value.double() - expected[name]).abs() - stored).clamp(min=0)
        found[name] = float(beyond.max()) / scale[name] / (torch.finfo(summed_in(value.dtype)).eps / 2)
    return found


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_errors_stay_inside_their_envelope(dtype: torch.dtype, kernel: tuple[int, int, int], far: float) -> None:
    weight, shift, grad = arguments(kernel, dtype, far)
    got = derivatives(weight, shift, grad)
    found = errors(got, exact(weight, shift, grad), magnitudes(weight, grad))
    envelope = ENVELOPE[summed_in(dtype)]
    assert {name: error for name, error in found.items() if not error <= envelope[name]} == {}


@pytest.mark.parametrize("power", [-60, 60, 100])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 4, 4), (5, 5, 5)], ids=str)
def test_errors_do_not_depend_on_the_size_of_numbers(kernel: tuple[int, int, int], power: int) -> None:
    """A power of two passes through every sum unchanged, bit for bit, where nothing overflows or becomes denormal."""
    weight, shift, grad = arguments(kernel, torch.float32)
    plain, scaled = derivatives(weight, shift, grad), derivatives(weight * 2.0**power, shift, grad)
    assert torch.equal(scaled["output"], plain["output"] * 2.0**power)
    assert torch.equal(scaled["weight"], plain["weight"])
    assert torch.equal(scaled["shift"], plain["shift"] * 2.0**power)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 4, 4), (5, 5, 5)], ids=str)
def test_denormal_weights(dtype: torch.dtype, kernel: tuple[int, int, int]) -> None:
    """Their sums are as coarse as they are: a few of the smallest steps, not flushed to 0."""
    steps = torch.randint(-1000, 1000, (3, 2, *kernel))
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    weight, shift = (steps.double() * smallest).to(dtype), torch.randn(2, 3).to(dtype)
    got = crossd_ops.fourier_shift_slice(weight, shift).double() / smallest
    expected = reference.fourier_shift_slice(steps.double(), shift.double())
    # Each product and sum is rounded to a step: K^2 sums of three axes at most.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=3.0 * max(kernel))
    assert got.abs().max() > 100


@pytest.mark.parametrize("largest", [torch.finfo(torch.float32).max, float("inf")])
def test_overflow_is_infinite_or_nan_and_stays_in_its_pair(largest: float) -> None:
    weight, shift = torch.randn(3, 2, 3, 3, 3), torch.randn(2, 3)
    expected = crossd_ops.fourier_shift_slice(weight, shift)
    weight[1, 1] = largest
    got = crossd_ops.fourier_shift_slice(weight, shift)
    other = torch.ones(3, 2, dtype=torch.bool)
    other[1, 1] = False
    torch.testing.assert_close(got[:, other], expected[:, other], rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (4, 4, 4), (5, 5, 5), (7, 7, 7), (2, 3, 5)], ids=str)
def test_a_shift_that_is_not_finite_stays_in_its_sample(kernel: tuple[int, int, int], axis: int, value: float) -> None:
    weight, shift, grad = arguments(kernel, torch.float32)
    expected = derivatives(weight, shift, grad)
    shift[2, axis] = value
    got = derivatives(weight, shift, grad)
    rest = torch.tensor([0, 1, 3])
    assert got["output"][2].isnan().all()
    torch.testing.assert_close(got["output"][rest], expected["output"][rest], rtol=0, atol=0)
    torch.testing.assert_close(got["shift"][rest], expected["shift"][rest], rtol=0, atol=0)
    volume = crossd_ops.fourier_shift(weight, shift)
    assert volume[2].isnan().all() and volume[rest].isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_stays_alone_in_the_convolution(value: float) -> None:
    input, weight, shift = torch.randn(3, 2, 6, 6), torch.randn(4, 2, 3, 3, 3), torch.randn(3, 3)
    expected = crossd_ops.crossd_conv2d(input, weight, shift, padding=1)
    shift[1, 0] = value
    got = crossd_ops.crossd_conv2d(input, weight, shift, padding=1)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    """Ties to even, denormals, overflow, infinity and NaN: a kernel of size 1 leaves nothing but the conversion.

    But for the sign of -0, which a sum that begins with 0 loses.
    """
    torch_rounds = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).float()
    between = torch.nextafter(torch_rounds, torch.full((), math.inf))
    halfway = (torch_rounds[:-1] + torch_rounds[1:]) / 2
    for values in (torch_rounds, between, halfway, halfway * (1 + 2.0**-20), torch.randn(4096) * 70000):
        weight = values.reshape(-1, 1, 1, 1, 1)
        got = crossd_ops.fourier_shift(weight, torch.zeros(1, 3), dtype=dtype).flatten()
        expected = values.to(dtype)
        assert torch.equal(got.isnan(), expected.isnan())
        numbers = ~expected.isnan()
        assert torch.equal(got[numbers], expected[numbers])
