"""What the operators are compared with: the torch.fft expansion, that compiled, and the shift as a matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import crossd_ops


def matrix_slice(weight: Tensor, shift: Tensor, *, dtype: torch.dtype) -> Tensor:
    """The middle slice as one product for each sample, of its K^2 x K^3 matrix with the weight, in `dtype`.

    d(n; s) = (1 + 2 sum_m cos(2 pi m (n - s) / K)) / K, m from 1 to (K - 1) / 2: the Dirichlet kernel, for odd K.
    """
    depth, height, width = weight.shape[2:]
    of_depth = _circulants(shift[:, 0], depth)[:, depth // 2]
    of_height, of_width = _circulants(shift[:, 1], height), _circulants(shift[:, 2], width)
    matrix = torch.einsum("bx,byu,bzv->bxuvyz", of_depth, of_height, of_width).to(dtype)
    columns = weight.to(dtype).reshape(-1, depth * height * width)
    slices = columns @ matrix.reshape(len(shift), depth * height * width, height * width)
    return slices.reshape(len(shift), *weight.shape[:2], height, width)


def _circulants(shift: Tensor, size: int) -> Tensor:
    """(B, K, K): [b, x, y] = d(x - y; shift_b)."""
    if size % 2 == 0:
        raise ValueError(f"weight: expected odd kernel sizes, got {size}")
    places = torch.arange(size, device=shift.device)
    distance = (places[:, None] - places)[None] - shift[:, None, None]
    total = torch.ones_like(distance)
    for frequency in range(1, (size - 1) // 2 + 1):
        total = total + 2 * torch.cos(2 * torch.pi * frequency * distance / size)
    return total / size


def compiled(function: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    """`function` by torch.compile for fixed sizes."""
    result: Any = torch.compile(function, dynamic=False, backend=backend)
    return result  # type: ignore[no-any-return]


def by_expansion(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` of crossd_ops as it runs without compiled kernels."""

    def call(*arguments: Any, **options: Any) -> Tensor:
        with crossd_ops.use_backend("reference"):
            return function(*arguments, **options)

    return call
