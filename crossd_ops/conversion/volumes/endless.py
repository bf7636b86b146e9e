"""Volumes that go on in front and behind as they end, for the proof that images and equal slices give the same."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import has_torch_function

from ...layers.leaf import watching
from ..averages import three
from .rules import Call


def is_endless(volume: Tensor) -> bool:
    """Whether a layer, into which the mode does not look, has to put slices where it would put zeros by itself."""
    mode = watching() if has_torch_function((volume,)) else None
    return mode is not None and mode.endless


def longer(volume: Tensor, front: int, back: int) -> Tensor:
    """More slices like the first and the last; fewer where a number is negative."""
    front_cut, back_cut = max(-front, 0), max(-back, 0)
    volume = volume[:, :, front_cut : volume.shape[2] - back_cut]
    return F.pad(volume, (0, 0, 0, 0, max(front, 0), max(back, 0)), mode="replicate")


def endless_input(call: Call, padding: Any, position: int) -> None:
    """Puts slices where the call would put zeros along the depth."""
    depth, *plane = three(padding)
    call.change(0, "input", value=longer(call.tensor, depth, depth))
    call.change(position, "padding", value=(0, *plane))


def endless_pad(call: Call, pad: list[Any]) -> Any:
    """The padding of a volume by amounts for at least three axes."""
    call.change(0, "input", value=longer(call.tensor, pad[4], pad[5]))
    call.change(1, "pad", value=[*pad[:4], 0, 0, *pad[6:]])
    return call.run()


def endless_layer(call: Call) -> Any:
    """What layers for volumes call."""
    if call.name == "avg_pool3d":
        endless_input(call, call.argument(3, "padding", default=0), 3)
    elif call.name == "conv3d":
        padding = call.argument(4, "padding", default=0)
        if padding == "same":
            sizes, rates = call.argument(1, "weight").shape[2:], three(call.argument(5, "dilation", default=1))
            totals = [rate * (size - 1) for size, rate in zip(sizes, rates, strict=True)]
            depth, *plane = [(total // 2, total - total // 2) for total in totals]
            call.change(0, "input", value=F.pad(longer(call.tensor, *depth), (*plane[1], *plane[0])))
            call.change(4, "padding", value=0)
        elif padding != "valid":
            endless_input(call, padding, 4)
    elif call.name == "conv_transpose3d":
        return _transposed(call)
    return call.run()


def _transposed(call: Call) -> Any:
    stride = three(call.argument(3, "stride", default=1))[0]
    padding = three(call.argument(4, "padding", default=0))[0]
    more = three(call.argument(5, "output_padding", default=0))[0]
    reach = three(call.argument(7, "dilation", default=1))[0] * (call.argument(1, "weight").shape[2] - 1)
    count = (call.tensor.shape[2] - 1) * stride - 2 * padding + reach + more + 1
    added = reach // stride + 1
    call.change(0, "input", value=longer(call.tensor, added, added))
    return call.run()[:, :, added * stride : added * stride + count]
