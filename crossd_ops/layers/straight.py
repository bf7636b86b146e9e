"""Whether a layer may go the straight way (operators/layer.py), asked at every call, as everything may change between.

What modules hold is read from their own dicts: Module.__getattr__ takes ten times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import is_plain
from ..operators.context import autocast_dtype
from ..operators.layer import layer_by_operators
from ..operators.plain_head import fused_type, plain_parts
from ..operators.plan import fits


def straight(layer: Any, input: Tensor) -> Tensor | None:
    """The result of a `CrossDConv2d`; None where it has to go the general way, which also refuses wrong arguments."""
    own: dict[str, Any] = layer.__dict__
    stored, padding = own["_parameters"], own["padding"]
    weight = stored.get("weights_3d")
    if (
        type(input) is not Tensor
        or type(weight) is not nn.Parameter  # but computed, as of a parametrisation
        or "bias" not in stored
        or own["_is_identity"]
        or own["_buffers"].get("fixed_shift") is not None
        or own["padding_mode"] != "zeros"
        or type(padding) is not tuple
        or not is_plain()
        or input.dim() != 4
        or input.shape[1] != own["in_channels"]
    ):
        return None
    head = plain_parts(own["_modules"]["rotation_params"])
    dtype = (autocast_dtype(weight) if torch._C._is_any_autocast_enabled() else None) or weight.dtype
    if head is None or fused_type(input, *head) is not dtype:
        return None
    place = *own["stride"], *padding, *own["dilation"], own["groups"], own["dim"], own["index"]
    bias = stored["bias"]
    sizes, dtypes = (None, (weight.dtype,)) if bias is None else (bias.shape, (weight.dtype, bias.dtype))
    device = input.device
    if (
        weight.device != device
        or not (bias is None or bias.device == device)
        or not fits(input.shape, weight.shape, sizes, dtypes, place)
    ):
        return None  # to be refused, before the head has counted the batch
    if input.dtype is not dtype:
        input = input.to(dtype)
    return layer_by_operators(input, weight, bias, place, own["rotation"], *head)
