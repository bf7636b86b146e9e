"""The derivative of a translation M(s) along one axis, made of translations.

    dM(s)/ds W = M(s) D W + pi M(s + 1/2) P W

D = IFFT (-2 pi i f) FFT over the frequencies between -1/2 and 1/2. P projects on the Nyquist frequency -1/2, which only
an even size has: its phase exp(i pi s) has the derivative pi exp(i pi (s + 1/2)). Both are circulant and real, so it
makes no difference that the real part is taken after the translation.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

Taps = tuple[float, ...]


@functools.cache
def derivative_terms(size: int) -> tuple[tuple[Taps, float], ...]:
    """The circulants C and offsets u with dM(s)/ds W = sum M(s + u) C W along an axis: D, and for an even size pi P."""
    below_nyquist = range(1, (size - 1) // 2 + 1)
    derivative = tuple(
        sum(4 * math.pi * m / size**2 * math.sin(2 * math.pi * m * n / size) for m in below_nyquist)
        for n in range(size)
    )
    if size % 2:
        return ((derivative, 0.0),)
    return (derivative, 0.0), (tuple(math.pi / size * (-1) ** n for n in range(size)), 0.5)


def circulant(weight: Tensor, taps: Taps, axis: int) -> Tensor:
    """sum_n taps[n] weight[x - n] along an axis; made of elementwise operations, which autocast does not round."""
    total = torch.zeros_like(weight)
    for n, tap in enumerate(taps):
        if tap:
            total = total + tap * weight.roll(n, axis)
    return total


def transposed(taps: Taps) -> Taps:
    """Taps of the transposed circulant matrix: those at -n."""
    return taps[0], *reversed(taps[1:])


def moved(shift: Tensor, axis: int, offset: float) -> Tensor:
    """Each shift (B, 3), moved by `offset` elements along one axis."""
    here = torch.arange(3, device=shift.device) == axis
    return shift + offset * here.to(shift.dtype) if offset else shift


def per_sample(shift: Tensor, axis: int, like: Tensor) -> Tensor:
    """What each sample has along an axis of the shift (B, 3), to multiply a tensor (B, ...) by."""
    return shift[:, axis].reshape(-1, *(1,) * (like.dim() - 1))
