"""The convolutions that a network makes of one input: found by a run without memory where the network allows it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...layers.common import CrossDLayer, padded
from ...layers.conv3d import CrossDConv3d
from ...operators.plan import fit

IMAGE_CHANNELS = 3  # at most


class Problem(NamedTuple):
    """A per-sample convolution, as the operator `convolution` is asked for it."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    place: tuple[int, ...]  # stride, padding and dilation along each axis, groups; of images dim and index
    dtype: torch.dtype
    channels_last: bool

    @property
    def axes(self) -> int:
        """2 of an image, 3 of a volume."""
        return len(self.input) - 2

    @property
    def need_input(self) -> bool:
        """Whether a backward pass makes the gradient of the input, which images do not have."""
        return self.input[1] > IMAGE_CHANNELS

    @property
    def kernel(self) -> tuple[int, ...]:
        """Its sizes along each axis."""
        sizes = list(self.weight[2:])
        if self.axes == 2:
            del sizes[self.place[-2]]
        return tuple(sizes)

    def numbers(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
        """Stride, padding, dilation and groups, as `torch.nn.functional.conv2d` takes them."""
        axes = self.axes
        stride, padding, dilation = (tuple(self.place[axes * part : axes * (part + 1)]) for part in range(3))
        return stride, padding, dilation, self.place[3 * axes]

    def __str__(self) -> str:
        stride, _, dilation, groups = self.numbers()
        text = (
            f"{self.input[1]}->{self.weight[0]} {'x'.join(map(str, self.kernel))} @{'x'.join(map(str, self.input[2:]))}"
        )
        for letter, numbers in (("s", stride), ("d", dilation)):
            if {*numbers} != {1}:
                text += f" {letter}{numbers[0] if len({*numbers}) == 1 else 'x'.join(map(str, numbers))}"
        return text + (f" g{groups}" if groups > 1 else "")


def problems_of(
    model: nn.Module, sizes: Sequence[int], dtype: torch.dtype, *, channels_last: bool
) -> dict[Problem, list[str]]:
    """Each convolution with the names of the layers that make it; `sizes`: of the input, (B, C, ...).

    Layers whose kernels are 1x1, and those with a fixed shift, are plain convolutions, and left out. Raises ValueError
    where no Cross-D convolution is left.
    """
    try:
        with torch.device("meta"):
            found = _recorded(copy.deepcopy(model).to("meta"), torch.empty(sizes, dtype=dtype), dtype, channels_last)
    except RuntimeError:  # tensors without memory have no values, which some networks ask for
        found = _recorded(copy.deepcopy(model), torch.randn(sizes, dtype=dtype), dtype, channels_last)
    if not found:
        raise ValueError("network: expected Cross-D convolutions with kernels larger than 1x1, got none")
    return found


@torch.no_grad()
def _recorded(model: nn.Module, input: Tensor, dtype: torch.dtype, channels_last: bool) -> dict[Problem, list[str]]:
    found: dict[Problem, list[str]] = {}

    def hook_for(name: str) -> Any:
        def record(layer: Any, arguments: tuple[Tensor, ...]) -> None:
            if max(layer.kernel_size) > 1 and layer.fixed_shift is None:
                found.setdefault(_problem_of(layer, arguments[0], dtype, channels_last), []).append(name)

        return record

    for name, module in model.named_modules():
        if isinstance(module, CrossDLayer):
            module.register_forward_pre_hook(hook_for(name))
    model.to(dtype).eval()(input)
    return found


def _problem_of(layer: Any, input: Tensor, dtype: torch.dtype, channels_last: bool) -> Problem:
    image, padding = padded(input, layer.kernel_size, layer.dilation, layer.padding, layer.padding_mode)
    numbers = layer.stride, padding, layer.dilation, layer.groups
    geometry, extra = fit(image.shape, layer.kernel_size, *numbers)
    sizes = [size + sum(extra[-2 * (axis + 1) :][:2]) for axis, size in enumerate(image.shape[2:])]
    place = (*geometry.stride, *geometry.padding, *geometry.dilation, layer.groups)
    weight = layer.weights_3d.movedim(2 + layer.dim, 2) if isinstance(layer, CrossDConv3d) else layer.weights_3d
    if weight is layer.weights_3d:
        place += (layer.dim, layer.index)
    return Problem((*image.shape[:2], *sizes), tuple(weight.shape), place, dtype, channels_last)
