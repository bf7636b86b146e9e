"""A true rotation of a 3D weight about its centre, made of Fourier shears, and pretraining with random ones.

The rotation of a plane is three shears, each a shift of every line in proportion to its distance from the centre
(Unser, Thévenaz and Yaroslavsky, IEEE Trans. Image Processing 4(10), 1995). The shifts are circular and by Fourier
transforms of the lines: for odd sizes they keep the norm, and a quarter turn is `torch.rot90` but for rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import crossd_ops
from benchmarks.transfer.training import StepContext

_LARGEST_ANGLE = math.pi / 4


def rotate_plane(weight: Tensor, axes: tuple[int, int], angle: float) -> Tensor:
    """Rotate the planes that two axes span about their centre, from the first axis towards the second (`torch.rot90`).

    Args:
        weight: any shape, of one odd size along both axes; floating type.
        axes: two different axes.
        angle: in radians, between -pi and pi, both excluded: there the shears grow without bound.

    Returns:
        As weight; differentiable in it.

    Raises:
        ValueError: sizes that differ or are even, or an angle out of range.
    """
    sizes = tuple(weight.shape[axis] for axis in axes)
    if sizes[0] != sizes[1] or sizes[0] % 2 == 0:
        raise ValueError(f"weight: expected one odd size along both axes {axes}, got {sizes}")
    if not -math.pi < angle < math.pi:
        raise ValueError(f"angle: expected a value between -pi and pi, got {angle}")
    plane = weight.movedim(axes, (-2, -1))
    plane = _shear(plane, math.tan(angle / 2))
    plane = _shear(plane.mT, -math.sin(angle)).mT
    return _shear(plane, math.tan(angle / 2)).movedim((-2, -1), axes)


def _shear(plane: Tensor, slope: float) -> Tensor:
    """Shift every line along the last axis by `slope` times its distance from the middle of the axis before."""
    size = plane.shape[-1]
    distance = torch.arange(size, dtype=plane.dtype, device=plane.device) - size // 2
    frequency = torch.fft.rfftfreq(size, dtype=plane.dtype, device=plane.device)
    angle = -2 * math.pi * slope * torch.outer(distance, frequency)
    return torch.fft.irfft(torch.fft.rfft(plane) * torch.polar(torch.ones_like(angle), angle), n=size)


class RandomRotation(nn.Module):
    """Parametrization of a weight (O, C, K, K, K): rotated about its height axis, then about its width axis.

    Both turn the middle slice out of its plane, so that a step trains other planes through the centre too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.angles = (0.0, 0.0)

    def draw(self, generator: torch.Generator) -> None:
        """Draw both angles anew, within 45 degrees to either side."""
        height, width = ((2 * torch.rand(2, generator=generator) - 1) * _LARGEST_ANGLE).tolist()
        self.angles = (height, width)

    def forward(self, weight: Tensor) -> Tensor:
        """The rotated weight."""
        about_height, about_width = self.angles
        return rotate_plane(rotate_plane(weight, (2, 4), about_height), (2, 3), about_width)


def rotate_randomly(network: nn.Module, step: StepContext) -> None:
    """Give the 3D weight of each Cross-D layer a random rotation for the step; what is trained is the weight before."""
    for layer in network.modules():
        if isinstance(layer, crossd_ops.CrossDConv2d):
            if not parametrize.is_parametrized(layer, "weights_3d"):
                parametrize.register_parametrization(layer, "weights_3d", RandomRotation())
            layer.parametrizations["weights_3d"][0].draw(step.generator)


def stop_rotating(layer: crossd_ops.CrossDConv2d) -> None:
    """Take the rotation away: the layer has its trained weight again."""
    if parametrize.is_parametrized(layer, "weights_3d"):
        parametrize.remove_parametrizations(layer, "weights_3d", leave_parametrized=False)
