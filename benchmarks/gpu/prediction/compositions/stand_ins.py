"""The kernels of csrc/convolution, and the shift's to another layout, which are no operators of the library.

Names for a recorder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_operators: Any = torch.ops.crossd_ops

_stand_ins = torch.library.Library("crossd_prediction", "DEF")
_stand_ins.define("tap_major_kernels(Tensor weight, Tensor shift, int dim, int? index, ScalarType dtype) -> Tensor")
_stand_ins.impl("tap_major_kernels", lambda *call: _operators.fourier_shift(*call), "Meta")
_stand_ins.define("convolve_tiles(Tensor input, Tensor kernels, Tensor? bias, int[] sizes, int groups) -> Tensor")
_stand_ins.impl("convolve_tiles", lambda input, kernels, bias, sizes, groups: _empty(input, sizes, True), "Meta")
_NUMBERS = "int[] stride, int[] padding, int[] dilation, int groups"
_stand_ins.define(f"tiles_input_gradient(Tensor grad, Tensor kernels, int[] sizes, {_NUMBERS}) -> Tensor")
_stand_ins.impl("tiles_input_gradient", lambda grad, kernels, sizes, *numbers: _empty(grad, sizes, True), "Meta")
_stand_ins.define(f"tiles_kernels_gradient(Tensor grad, Tensor input, int[] sizes, {_NUMBERS}) -> Tensor")
_stand_ins.impl("tiles_kernels_gradient", lambda grad, input, sizes, *numbers: tap_major(grad, sizes), "Meta")
for _name in ("image_to_columns", "columns_to_image"):
    _stand_ins.define(f"{_name}(Tensor input, int[] sizes, bool channels_last) -> Tensor")
    _stand_ins.impl(_name, lambda input, sizes, channels_last: _empty(input, sizes, channels_last), "Meta")
# Of some samples' pixels; columns: (rows, groups, elements of the weight, C / groups), flat. Sizes: those of volumes.
_SIZES = f"int[] weight, int[] kernel, int[] result, {_NUMBERS}"
_stand_ins.define(f"image_to_shifted_columns(Tensor image, Tensor shift, Tensor(a!) columns, {_SIZES}) -> ()")
_stand_ins.define(
    "shifted_columns_gradient(Tensor columns, Tensor image, Tensor shift, Tensor(a!)? seen, Tensor(b!)? partial, "
    f"{_SIZES}) -> ()"
)
_stand_ins.define(f"seen_to_image(Tensor seen, Tensor(a!) image, {_SIZES}) -> ()")
for _name in ("image_to_shifted_columns", "shifted_columns_gradient", "seen_to_image"):
    _stand_ins.impl(_name, lambda *_: None, "Meta")
own: Any = torch.ops.crossd_prediction


def _empty(input: Tensor, sizes: Sequence[int], channels_last: bool) -> Tensor:
    result = input.new_empty(sizes)
    return result.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else result


def tap_major(like: Tensor, sizes: Sequence[int]) -> Tensor:
    """Kernels (B, O, C, Kh, Kw) that lie as (B, Kh, Kw, O, C)."""
    samples, rows, channels, *kernel = sizes
    return like.new_empty(samples, *kernel, rows, channels).permute(0, 3, 4, 1, 2)
