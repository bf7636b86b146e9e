"""Weights of another number of axes: what a recipe makes of a weight, and what undoes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import fourier_shift_slice
from ..layers.conv2d import CrossDConv2d
from .depth import DepthGeometry

# Elements of the largest temporary of `mean_slice`.
_CHUNK = 1 << 22


def inflated(weight: Tensor, depth: int) -> Tensor:
    """I3D (Carreira and Zisserman, arXiv 1705.07750): (O, C, kh, kw) repeated along the depth, divided by `depth`.

    On a volume that is constant along the depth it gives what the 2D weight gives on a slice.
    """
    return (weight / depth).unsqueeze(2).repeat(1, 1, depth, 1, 1)


def centered(weight: Tensor, depth: int) -> Tensor:
    """(O, C, kh, kw) in the slice depth // 2 of a weight that is 0 elsewhere."""
    result = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
    result[:, :, depth // 2] = weight
    return result


def cropped(weight: Tensor, depth: int) -> Tensor:
    """The `depth` slices of (O, C, kd, kh, kw) around the middle one, kd // 2."""
    return weight.narrow(2, weight.shape[2] // 2 - depth // 2, depth).clone()


def inflated_transposed(weight: Tensor, geometry: DepthGeometry) -> Tensor:
    """`inflated` for the weight (C, O, kh, kw) of a transposed convolution.

    With a stride each position of the output sees every stride-th slice of the kernel alone, so a slice is divided by
    the number of those that are seen with it.
    """
    phases = [geometry.dilation * number % geometry.stride for number in range(geometry.kernel)]
    shares = torch.tensor([1 / phases.count(phase) for phase in phases], dtype=weight.dtype, device=weight.device)
    return weight.unsqueeze(2) * shares.view(-1, 1, 1)


def deflated_transposed(weight: Tensor, stride: int, dilation: int) -> Tensor:
    """What `inflated_transposed` was made of: (C, O, kd, kh, kw) -> (C, O, kh, kw)."""
    return weight.sum(2) / len({dilation * number % stride for number in range(weight.shape[2])})


def depth_first(module: CrossDConv2d, weight: Tensor) -> Tensor:
    """A weight in the layout of `module.weights_3d` as (O, C, depth, kh, kw), the 2D layer's slice in the middle.

    As it is for layers with the published slice, dim 0 and index depth // 2.
    """
    return weight.movedim(2 + module.dim, 2).roll(module.depth // 2 - module.index, 2)


def mean_slice(module: CrossDConv2d, shifts: Tensor) -> Tensor:
    """The mean over the shifts (N, 3) of the 2D weight (O, C, kh, kw) that the layer has for each.

    The slice is linear in the weight: what is averaged are the slices of a basis, far smaller than the weight, in
    float64.
    """
    sizes = module.weights_3d.shape[2:]
    basis = torch.eye(sizes.numel(), dtype=torch.float64, device="cpu").view(-1, 1, *sizes)
    elements = basis.numel() // sizes[module.dim]
    total: Tensor | float = 0.0
    for some in torch.split(shifts.detach().cpu().double(), max(1, _CHUNK // elements)):
        total = total + fourier_shift_slice(basis, some, dim=module.dim, index=module.index).sum(0)
    assert isinstance(total, Tensor)
    mean = (total / len(shifts)).to(module.weights_3d.device)
    weight = module.weights_3d.detach()
    result = torch.einsum("ocn,nhw->ochw", weight.flatten(2).double(), mean[:, 0])
    return result.to(weight.dtype)
