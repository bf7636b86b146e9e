"""The reference against the equations written out, and against what others compute."""

from __future__ import annotations

import math

import pytest
import torch

import crossd_ops
from crossd_ops import reference

KERNELS = [(k, k, k) for k in range(1, 9)] + [(3, 1, 5), (2, 3, 4), (1, 4, 7), (6, 2, 1)]


def dirichlet_matrix(size: int, shift: torch.Tensor) -> torch.Tensor:
    """d(x - x'; s), complex, with the one-sided Nyquist frequency of fftfreq: (B, size, size)."""
    frequencies = torch.fft.fftfreq(size, dtype=torch.float64)
    positions = torch.arange(size, dtype=torch.float64)
    distance = positions[:, None] - positions - shift[:, None, None]
    return torch.exp(2j * math.pi * distance[..., None] * frequencies).sum(-1) / size


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_reference_is_the_separable_sum(kernel: tuple[int, int, int]) -> None:
    weight = torch.randn(2, 3, *kernel, dtype=torch.float64)
    shift = 3 * torch.randn(4, 3, dtype=torch.float64)
    taps = [dirichlet_matrix(size, column) for size, column in zip(kernel, shift.unbind(1), strict=True)]
    expected = torch.einsum("bxi,byj,bzk,ocijk->bocxyz", *taps, weight.to(torch.complex128)).real
    torch.testing.assert_close(reference.fourier_shift(weight, shift), expected, rtol=0, atol=1e-12)
    for dim in range(3):
        for index in range(kernel[dim]):
            slices = reference.fourier_shift_slice(weight, shift, dim=dim, index=index)
            torch.testing.assert_close(slices, expected.select(3 + dim, index), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 4, 4), (2, 3, 5)], ids=str)
def test_phase_is_that_of_the_published_rotation(kernel: tuple[int, int, int]) -> None:
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64)
    axis, angle = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    grid = torch.meshgrid(*(torch.fft.fftfreq(size, dtype=torch.float64) for size in kernel), indexing="ij")
    rotated = torch.einsum("bij,jxyz->bixyz", reference.rotation_matrix(axis, angle), torch.stack(grid))
    phase = torch.exp(-2j * math.pi * rotated.sum(1))
    expected = torch.fft.ifftn(torch.fft.fftn(weight, dim=(2, 3, 4)) * phase[:, None, None], dim=(3, 4, 5)).real
    shift = reference.rotation_shift(axis, angle)
    torch.testing.assert_close(reference.fourier_shift(weight, shift), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 5, 2)], ids=str)
def test_shift_by_whole_elements_rolls(kernel: tuple[int, int, int]) -> None:
    weight = torch.randn(2, 2, *kernel, dtype=torch.float64)
    shift = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-2.0, 0.0, 7.0]], dtype=torch.float64)
    for got, steps in zip(reference.fourier_shift(weight, shift), shift.int().tolist(), strict=True):
        torch.testing.assert_close(got, weight.roll(steps, (2, 3, 4)), rtol=0, atol=1e-12)


def test_same_as_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    volume, steps = torch.randn(5, 3, 7, dtype=torch.float64), (0.4, -1.3, 2.2)
    spectrum = ndimage.fourier_shift(torch.fft.fftn(volume).numpy(), steps)
    expected = torch.fft.ifftn(torch.from_numpy(spectrum)).real
    got = reference.fourier_shift(volume[None, None], torch.tensor([steps], dtype=torch.float64))[0, 0, 0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_exact_rotation_is_a_rotation_and_linear_its_first_order() -> None:
    axis = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    angle = torch.randn(5, 1, dtype=torch.float64)
    exact = reference.rotation_matrix(axis, angle, "exact")
    identity = torch.eye(3, dtype=torch.float64).expand_as(exact)
    torch.testing.assert_close(exact @ exact.mT, identity)
    torch.testing.assert_close(torch.linalg.det(exact), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((exact @ axis[..., None])[..., 0], axis)
    small = 1e-6 * angle
    difference = reference.rotation_matrix(axis, small, "exact") - reference.rotation_matrix(axis, small)
    assert difference.abs().max() < 1e-11
    quarter = reference.rotation_matrix(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([math.pi / 2]), "exact")
    torch.testing.assert_close(quarter[0] @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("rotation", ["linear", "exact"])
def test_rotation_shift_is_the_row_sum_of_the_matrix(rotation: str) -> None:
    axis, angle = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = reference.rotation_shift(axis, angle, rotation)
    torch.testing.assert_close(crossd_ops.rotation_shift(axis, angle, rotation=rotation), expected)
    torch.testing.assert_close(crossd_ops.rotation_shift(axis, angle[:, None], rotation=rotation), expected)


def test_rotation_shift_computes_half_types_in_float32() -> None:
    axis, angle = torch.randn(4, 3).bfloat16(), torch.randn(4).bfloat16()
    got = crossd_ops.rotation_shift(axis, angle)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, crossd_ops.rotation_shift(axis.float(), angle.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert crossd_ops.rotation_shift(axis.float(), angle.float(), rotation="exact").dtype is torch.float32
