"""Cross-D Conv as published (Yavuz and Yang, arXiv 2411.02441), with torch.fft: slow, plain to read beside the paper.

    phase_b(f) = exp(-2 pi i sum_d (R_b f)_d),   f in fftfreq(Kd) x fftfreq(Kh) x fftfreq(Kw)
    W_b        = Re IFFT3( FFT3(W) phase_b )
    w_b        = one slice of W_b

Since sum_d (R f)_d = s . f with s = R^T 1, the phase is that of a translation by s, circular and fractional: the
operation of `scipy.ndimage.fourier_shift`. Any device, any kernel size, float64 for float64 and float32 for every other
type; autograd differentiates it to any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import checks

_AXES = (-3, -2, -1)


def rotation_matrix(axis: Tensor, angle: Tensor, rotation: str = "linear") -> Tensor:
    """R (B, 3, 3) of axis k (B, 3) and angle t in radians, (B,) or (B, 1).

    "linear": I + t [k]x, what the published code computes. "exact": I + sin t [k]x + (1 - cos t) [k]x^2, Rodrigues'
    rotation for a unit axis.
    """
    checks.check_rotation(axis, angle, rotation)
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    identity = torch.eye(3, dtype=axis.dtype, device=axis.device)
    angle = angle.reshape(-1, 1, 1)
    if rotation == "linear":
        return identity + angle * cross
    return identity + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def rotation_shift(axis: Tensor, angle: Tensor, rotation: str = "linear") -> Tensor:
    """s = R^T 1 (B, 3): the translation, in kernel elements, whose phase is that of the published rotation."""
    return rotation_matrix(axis, angle, rotation).sum(dim=-2)


def fourier_shift(weight: Tensor, shift: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Weight (O, C, Kd, Kh, Kw) translated by each shift (B, 3), in elements -> (B, O, C, Kd, Kh, Kw).

    Equation: W_b = Re IFFT3(FFT3(W) phase_b). The result has `dtype`, or the weight's.
    """
    checks.check_weight_and_shift(weight, shift, dtype)
    out_dtype = weight.dtype if dtype is None else dtype
    compute_dtype = checks.accumulate_dtype(weight.dtype)
    weight, shift = weight.to(compute_dtype), shift.to(compute_dtype)
    fd, fh, fw = (torch.fft.fftfreq(size, dtype=compute_dtype, device=weight.device) for size in weight.shape[2:])
    sd, sh, sw = shift[..., None, None, None].unbind(1)
    phase = torch.exp(-2j * torch.pi * (sd * fd[:, None, None] + sh * fh[:, None] + sw * fw))
    if 0 in (*weight.shape[:2], shift.shape[0]):  # FFT libraries refuse what is empty
        return (weight * phase.real[:, None, None]).to(out_dtype)
    spectrum = torch.fft.fftn(weight, dim=_AXES) * phase[:, None, None]
    shifted: Tensor = torch.fft.ifftn(spectrum, dim=_AXES).real
    return shifted.to(out_dtype)


def fourier_shift_slice(
    weight: Tensor, shift: Tensor, *, dim: int = 0, index: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """One slice of `fourier_shift`, at `index` (default K // 2) of spatial axis `dim` -> (B, O, C, K', K'')."""
    checks.check_weight_and_shift(weight, shift, dtype)
    dim, index = checks.check_slice(weight.shape, dim, index)
    return fourier_shift(weight, shift, dtype=dtype).select(3 + dim, index)
