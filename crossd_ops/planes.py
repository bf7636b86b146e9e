"""Training and inflating with all three planes of the 3D weights: as published, training reaches little but one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conversion.calibration import crossd_layers
from .operators.checks import check_tensor, int_of


def set_plane(model: nn.Module, dim: int) -> None:
    """From now on every Cross-D convolution of `model` takes its 2D weight from the plane across axis `dim`.

    For images whose plane is known, call it before each step with the plane of the batch's images, so that each of the
    three planes of a weight learns what it will see in a volume: 0 for slices along the depth of the later volumes
    (axial), 1 along their height (coronal), 2 along their width (sagittal). The middle slice is taken, as published
    (arXiv 2411.02441), where only the first axis is used.

    Args:
        model: a network with Cross-D convolutions; those whose weights are not cubic cannot be turned.
        dim: spatial axis of the weights, 0 (published) to 2.

    Raises:
        TypeError: `model` is no module, or `dim` no int.
        ValueError: another `dim`; no Cross-D convolution; a weight with unequal sizes. Nothing is changed then.
    """
    axis: int | None = int_of(dim)
    if axis is None:
        raise TypeError(f"dim: expected an int, got {type(dim).__name__}")
    if axis not in (0, 1, 2):
        raise ValueError(f"dim: expected 0, 1 or 2, got {dim!r}")
    layers = crossd_layers(model)
    for name, layer in layers.items():
        if len(set(layer.weights_3d.shape[2:])) != 1:
            raise ValueError(
                f"{name}: expected a cubic weight, whose planes are alike, got {tuple(layer.weights_3d.shape)}"
            )
    for layer in layers.values():
        layer.dim = axis


def random_plane(model: nn.Module, generator: torch.Generator | None = None) -> int:
    """`set_plane` with an axis drawn at random, for images whose plane is not known; returns the axis.

    Args:
        model: as for `set_plane`.
        generator: of the CPU; default torch's own.

    Raises:
        TypeError, ValueError: as `set_plane`.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    dim = int(torch.randint(3, (), generator=generator, device="cpu"))
    set_plane(model, dim)
    return dim


def sum_of_planes(weight: Tensor, *, same: bool = False) -> Tensor:
    """The 3D weight that convolves with the three planes through the middle of `weight`, and adds what they give.

        W'[x, y, z] = W[K//2, y, z] [x = K//2] + W[x, K//2, z] [y = K//2] + W[x, y, K//2] [z = K//2]

    A volume is so looked at in the axial, coronal and sagittal direction at once, by every channel, where ACS
    (arXiv 1911.10477) has a third of the channels for each. For a 3D weight that moved by its mean shift (recipe
    "shifted" of `to_3d`) and of which training in 2D reached nothing but these planes.

    Args:
        weight: (O, C, K, K, K), cubic.
        same: use the plane across the first axis for all three, for a weight trained on that one alone.

    Returns:
        (O, C, K, K, K), a new tensor.

    Raises:
        TypeError, ValueError: `weight` is not a tensor of that shape.
    """
    check_tensor("weight", weight)
    if weight.dim() != 5 or len(set(weight.shape[2:])) != 1 or weight.shape[2] == 0:
        raise ValueError(f"weight: expected (O, C, K, K, K), got {tuple(weight.shape)}")
    middle = weight.shape[2] // 2
    result = torch.zeros_like(weight)
    for axis in (2, 3, 4):
        result.select(axis, middle).add_(weight.select(2 if same else axis, middle))
    return result
