"""Whether the layers of a head do nothing but their own work, and whether one operator may take their place.

Asked at every call, since layers are replaced, moved, frozen and given hooks between calls; so the answer has to be
quick. What modules hold is read from their own dicts: Module.__getattr__ takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import backends
from .context import autocast_dtype

_module: Any = nn.modules.module
HAS_OPERATOR = hasattr(torch.ops.crossd_ops, "predict_shift")  # not where nothing, or an older library, was loaded
HIDDEN_CHANNELS = 16  # of the operator, which keeps them in registers
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of the norm
_TENSORS = (Tensor, nn.Parameter)  # not their subclasses
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the operator
_KINDS = (  # not SyncBatchNorm, which talks to other processes and must not do so twice
    (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d),
    (nn.Sequential, nn.Conv3d, nn.BatchNorm3d, nn.ReLU, nn.Conv3d),
)


def plain_parts(layers: nn.Sequential) -> tuple[Any, Sequence[Tensor]] | None:
    """The norm and the six parameters of 1x1 convolution, norm, ReLU, 1x1 convolution; None if they do more than that.

    What is returned says all that the layers do, so it can be done without them.
    """
    modules: Any = (layers, *layers._modules.values())
    if tuple(map(type, modules)) not in _KINDS:
        return None
    for module in modules:
        if module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks:
            return None
    _, first, norm, _, last = modules
    # By name, as their order may change. None for one that is not there, or became a plain attribute of the module.
    parameters = [layer._parameters.get(name) for layer in (first, norm, last) for name in ("weight", "bias")]
    plain = (
        len({id(tensor) for tensor in parameters if tensor is not None}) == 6  # a tensor in two places has one gradient
        and _is_pointwise(first)
        and _is_pointwise(last)
        and not _module._has_any_global_hook()
    )
    return (norm, parameters) if plain else None


def _is_pointwise(layer: Any) -> bool:
    return (
        layer._parameters["weight"].shape[2:] in ((1, 1), (1, 1, 1))
        and layer.groups == 1
        and layer.stride in ((1, 1), (1, 1, 1))
        and layer.padding in ("same", "valid", (0, 0), (0, 0, 0))
    )


def fused_type(input: Tensor, norm: Any, parameters: Sequence[Tensor]) -> torch.dtype | None:
    """The type in which the operator takes the input, where it may do the work of plain layers here and now; else None.

    Their types may differ as they may for torch's own layers: under autocast, which would cast the convolutions'
    parameters, and in the norm, which may be in float32 beside half types.
    """
    buffers = norm._buffers
    if not HAS_OPERATOR or not all(map(buffers.__contains__, STATISTICS)):
        return None
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    of_norm, of_convolutions = [gain, offset], [weight1, bias1, weight2, bias2]
    if buffers["running_mean"] is not None:
        of_norm += buffers["running_mean"], buffers["running_var"]
    on_gpu = input.is_cuda
    for tensor in (input, *of_norm, *of_convolutions):
        if (
            type(tensor) not in _TENSORS
            or tensor.dtype not in _DTYPES
            or not (tensor.is_cuda if on_gpu else tensor.is_cpu)
        ):
            return None
    autocast = autocast_dtype(input) if torch._C._is_any_autocast_enabled() else None
    dtype = autocast or input.dtype
    kinds = {tensor.dtype for tensor in of_norm}
    if (
        dtype in _DTYPES
        and (kinds == {torch.float32} or kinds == {dtype})
        and (autocast is not None or all(tensor.dtype is dtype for tensor in of_convolutions))
        and input.layout is torch.strided
        and input.numel() > 0
        and weight1.shape[:2] == (HIDDEN_CHANNELS, input.shape[1])
        and weight2.shape[:2] == (4, HIDDEN_CHANNELS)
        and norm.num_features == HIDDEN_CHANNELS
        and backends.select("cuda" if on_gpu else "cpu") == backends.COMPILED
    ):
        return dtype
    return None
