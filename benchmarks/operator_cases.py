"""What the operator benchmark runs: layer shapes, their tensors, and the two implementations of one slice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

import crossd_ops
import crossd_ops.reference

Slice = Callable[..., torch.Tensor]

# The fused operator as users call it, and the same slice as published: FFT, phase, inverse FFT, real part.
IMPLEMENTATIONS: dict[str, Slice] = {
    "fused": crossd_ops.fourier_shift_slice,
    "expansion": crossd_ops.reference.fourier_shift_slice,
}


@dataclass(frozen=True)
class OperatorCase:
    """One layer's weight (float32, as under autocast), a batch of shifts, and the dtype of the slices."""

    out_channels: int
    in_channels: int
    kernel: int
    batch: int
    out_dtype: torch.dtype = torch.float32

    @property
    def label(self) -> str:
        return f"{self.out_channels}x{self.in_channels}x{self.kernel}^3"

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.batch, self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def weight_bytes(self) -> int:
        return self.out_channels * self.in_channels * self.kernel**3 * torch.float32.itemsize

    @property
    def out_bytes(self) -> int:
        return math.prod(self.out_shape) * self.out_dtype.itemsize

    @property
    def forward_floor_bytes(self) -> int:
        """Bytes that any forward must move: read the weight, write the slices."""
        return self.weight_bytes + self.out_bytes

    @property
    def backward_floor_bytes(self) -> int:
        """Bytes that any backward must move: read gradient and weight, write both gradients (12 bytes a shift)."""
        return self.out_bytes + 2 * self.weight_bytes + 12 * self.batch


@dataclass(frozen=True)
class OperatorTensors:
    """Inputs of one case; `grad` is the gradient that arrives at the slices."""

    weight: torch.Tensor
    shift: torch.Tensor
    grad: torch.Tensor


# Every distinct convolution of ResNet-18 with a kernel above 1x1, as (out_channels, in_channels, kernel).
RESNET18_LAYERS = (
    (64, 3, 7),
    (64, 64, 3),
    (128, 64, 3),
    (128, 128, 3),
    (256, 128, 3),
    (256, 256, 3),
    (512, 256, 3),
    (512, 512, 3),
)
QUICK_LAYERS = ((16, 3, 7), (32, 16, 3), (64, 64, 3))


def operator_cases(device: torch.device, batch: int, *, quick: bool) -> list[OperatorCase]:
    """All layers in float32 and, on a GPU, with bfloat16 slices too (what autocast asks for)."""
    layers = QUICK_LAYERS if quick else RESNET18_LAYERS
    out_dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    return [OperatorCase(*layer, batch, out_dtype) for out_dtype in out_dtypes for layer in layers]


def make_tensors(case: OperatorCase, device: torch.device, seed: int) -> OperatorTensors:
    """Random weight and gradient; shifts of random rotations of up to 45 degrees, the range of the published head."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(case.out_channels, case.in_channels, *[case.kernel] * 3, generator=generator)
    axis = torch.nn.functional.normalize(torch.randn(case.batch, 3, generator=generator), dim=1)
    angle = (torch.rand(case.batch, generator=generator) * 2 - 1) * (math.pi / 4)
    shift = crossd_ops.rotation_shift(axis, angle)
    grad = torch.randn(case.out_shape, generator=generator).to(case.out_dtype)
    return OperatorTensors(weight.to(device).requires_grad_(), shift.to(device).requires_grad_(), grad.to(device))


def run_forward(implementation: Slice, case: OperatorCase, tensors: OperatorTensors) -> torch.Tensor:
    """The slices, recorded for a backward."""
    return implementation(tensors.weight, tensors.shift, dtype=case.out_dtype)


def run_forward_backward(
    implementation: Slice, case: OperatorCase, tensors: OperatorTensors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The slices and the gradients of weight and shift."""
    out = run_forward(implementation, case, tensors)
    grad_weight, grad_shift = torch.autograd.grad(out, (tensors.weight, tensors.shift), tensors.grad)
    return out.detach(), grad_weight, grad_shift
