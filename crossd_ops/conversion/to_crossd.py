"""From a 2D network to the same network of Cross-D convolutions (arXiv 2411.02441)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..layers.conv2d import CrossDConv2d
from ..operators.checks import MAX_KERNEL
from .layers_2d import SAME_PADDING, STANDARDIZED, CrossDConv2dSame, WeightStandardization, timm_forward
from .modules.copies import copy_with, matching, walk
from .modules.parameters import own_parameter, refuse_computed

Where = Callable[[str, nn.Module], bool] | type[nn.Module] | tuple[type[nn.Module], ...] | str | Iterable[str] | None


def to_crossd(
    model: nn.Module,
    *,
    where: Where = None,
    init: Literal["pretrained", "random"] = "pretrained",
    depth_fill: Literal["repeat", "zeros"] = "repeat",
    pointwise: bool = False,
    rotation: Literal["linear", "exact"] = "linear",
) -> nn.Module:
    """A copy of a 2D network with Cross-D convolutions in place of its `nn.Conv2d` (arXiv 2411.02441).

    Each takes over every attribute of the convolution, also those that were put on it, its dtype, device, training and
    requires_grad flags (the head has those of the weight) and its forward and backward hooks. Methods and properties of
    a subclass are not taken over. Modules that are shared stay shared.

    With `init="pretrained"` the copy computes what the model computes: every head starts at the angle 0, with random
    axes, as the last layer of the head has weight and bias 0 for the angle. The gradient reaches the angle at the first
    step, and the axis as soon as the angle has moved. At the angle 0 the shift is (1, 1, 1), so the 2D weight, rolled
    back by one element, stands in the depth slice before the middle. The others are copies of it (`"repeat"`), or 0
    (`"zeros"`). Copies are the default: a shift along the depth then has no effect at first, where beside zeros it
    would fade the pretrained weight away; and every slice of the 3D weight has something to transfer to volumes,
    while training alone reaches little but the one slice. Such a 3D weight, taken as it is, is `depth` times the I3D
    weight.

    timm's `Conv2dSame` becomes `CrossDConv2dSame`. Where timm standardises weights (`StdConv2d`, `ScaledStdConv2d`,
    with and without "Same"), so does the copy, as networks without batch normalisation rely on it in training:
    `WeightStandardization` is a parametrisation of `weights_3d`, which reads as the standardised weight; a state dict
    holds `parametrizations.weights_3d.original`. (`"zeros"` is refused there: it has another mean and variance.)

    Code that reads the `weight` of a converted layer, as the fusing of branches does, raises AttributeError.

    Args:
        model: any module; left as it is.
        where: which `nn.Conv2d` to convert: None for every one, a predicate of (name, module), types of convolutions,
            or names and `fnmatch` patterns of names ("layer?.*").
        init: "pretrained", or "random" as published: weight, bias and head drawn anew.
        depth_fill: "repeat" or "zeros", see above; of no meaning with `init="random"`.
        pointwise: also convert where every kernel size is 1; the operation is the identity there.
        rotation: "linear", as the published code, or "exact"; see `rotation_shift`.

    Returns:
        The new model. Convolutions with a kernel size above 15, as patch embeddings have, stay plain, with a warning
        that names them.

    Raises:
        TypeError, ValueError: no convolution is chosen; one is lazy, has a weight that is computed (weight_norm,
            spectral_norm, pruning), an overridden forward that is not known, parameters tied to another module's,
            parameters, buffers or parts of its own, hooks on its state dict, or an attribute by a name that the
            Cross-D layer has too; or a method was set on a module of the network, as wrappers do with its forward. The
            text names the layer and the reason.
    """
    if init not in ("pretrained", "random"):
        raise ValueError(f"init: expected 'pretrained' or 'random', got {init!r}")
    if depth_fill not in ("repeat", "zeros"):
        raise ValueError(f"depth_fill: expected 'repeat' or 'zeros', got {depth_fill!r}")
    if rotation not in ("linear", "exact"):
        raise ValueError(f"rotation: expected 'linear' or 'exact', got {rotation!r}")
    chosen = _chosen(model, where, pointwise)
    for name, module in chosen.items():
        _refuse_unknown(name or "model", module, init, depth_fill)
    twins: dict[nn.Module, nn.Module] = {}
    for module in chosen.values():
        twins[module] = _twin(module, init, depth_fill, rotation)
    return copy_with(model, twins)


def _chosen(model: nn.Module, where: Where, pointwise: bool) -> dict[str, nn.Conv2d]:
    """The convolutions to convert by their first names, in the order of the modules."""
    convolutions = {
        name: module for name, module in walk(model, whole=(CrossDConv2d,)) if isinstance(module, nn.Conv2d)
    }
    wanted = _selection(model, where)
    chosen, too_large = {}, []
    for name, module in convolutions.items():
        if not wanted(name, module) or (not pointwise and set(module.kernel_size) == {1}):
            continue
        if max(module.kernel_size) > MAX_KERNEL:
            too_large.append(f"{name or 'model'} {module.kernel_size}")
        else:
            chosen[name] = module
    if not chosen:
        raise ValueError(
            f"model: expected a convolution to convert, got none: of {len(convolutions)} nn.Conv2d outside of Cross-D "
            f"layers {len(too_large)} chosen ones have kernel sizes above {MAX_KERNEL}, the others were not chosen or "
            "have kernel size 1"
        )
    if too_large:
        warnings.warn(
            f"to_crossd leaves convolutions plain whose kernel sizes are above {MAX_KERNEL}: {', '.join(too_large)}",
            stacklevel=3,
        )
    return chosen


def _selection(model: nn.Module, where: Where) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if isinstance(where, type) or (isinstance(where, tuple) and where and all(isinstance(t, type) for t in where)):
        types = cast("type[nn.Module] | tuple[type[nn.Module], ...]", where)
        return lambda name, module: isinstance(module, types)
    if callable(where):
        return where
    if not isinstance(where, Iterable):
        raise TypeError(f"where: expected None, a predicate, types, or names, got {where!r}")
    modules = matching(model, cast("str | Iterable[str]", where), (nn.Conv2d,), "where")
    return lambda name, module: module in modules


def _refuse_unknown(name: str, module: nn.Conv2d, init: str, depth_fill: str) -> None:
    """Raises where the module computes something else than a convolution known here with parameters of its own."""
    kind = type(module).__name__
    refuse_computed(name, module, "weight", "bias", otherwise=", or leave this layer out with where=")
    known = timm_forward(module)
    plain = type(module).forward is nn.Conv2d.forward and type(module)._conv_forward is nn.Conv2d._conv_forward
    if not (plain or known in (*SAME_PADDING, *STANDARDIZED)):
        raise TypeError(
            f"{name}: expected nn.Conv2d or a subclass with its forward, got {kind}, which overrides it in a way that "
            "is not known; leave it out with where="
        )
    if not module.weight.is_floating_point():
        raise TypeError(f"{name}: expected a weight of real floating-point numbers, got {module.weight.dtype}")
    if known in STANDARDIZED and init == "pretrained" and depth_fill == "zeros":
        raise ValueError(f"{name}: expected depth_fill='repeat' for {kind}, whose weight is standardised, got 'zeros'")


def _twin(module: nn.Conv2d, init: str, depth_fill: str, rotation: Literal["linear", "exact"]) -> CrossDConv2d:
    arguments: dict[str, Any] = {
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "dilation": module.dilation,
        "groups": module.groups,
        "bias": module.bias is not None,
        "device": module.weight.device,
        "dtype": module.weight.dtype,
        "rotation": rotation,
    }
    known = timm_forward(module)
    twin: CrossDConv2d
    if known == "Conv2dSame" or (known in SAME_PADDING and getattr(module, "same_pad", True)):
        twin = CrossDConv2dSame(**arguments)
    else:
        arguments.update(padding=module.padding, padding_mode=module.padding_mode)
        twin = CrossDConv2d(**arguments)
    if init == "pretrained":
        _start_as(twin, module, depth_fill)
    twin.train(module.training)
    for parameter in twin.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    if twin.bias is not None and module.bias is not None:
        twin.bias.requires_grad_(module.bias.requires_grad)
    if known in STANDARDIZED:
        _standardize(twin, module, init)
    return twin


@torch.no_grad()
def _start_as(twin: CrossDConv2d, module: nn.Conv2d, depth_fill: str) -> None:
    """Gives `twin` parameters with which it computes what `module` does."""
    # The shift at the angle 0 is (1, 1, 1), circular: it takes the slice in front and rolls it forward by one.
    weight = module.weight.roll((-1, -1), (2, 3)).unsqueeze(2)
    if depth_fill == "zeros":
        twin.weights_3d.zero_()
        before = (twin.index - 1) % twin.depth
        twin.weights_3d[:, :, before : before + 1] = weight
    else:
        twin.weights_3d.copy_(weight.expand_as(twin.weights_3d))
    if twin.bias is not None and module.bias is not None:
        twin.bias.copy_(module.bias)
    last = cast(nn.Conv2d, twin.rotation_params[-1])
    for parameter in last.parameters():
        parameter[3] = 0  # of the four channels, the one of the angle


def _standardize(twin: CrossDConv2d, module: nn.Conv2d, init: str) -> None:
    """Puts the standardisation of timm's `module` on the 3D weight; equal slices have mean and variance of one."""
    gain: nn.Parameter | None = getattr(module, "gain", None)
    if gain is not None:
        gain = own_parameter(gain if init == "pretrained" else torch.ones_like(gain), gain.requires_grad)
    eps, scale = cast(float, module.eps), cast(float, getattr(module, "scale", 1.0))
    parametrize.register_parametrization(twin, "weights_3d", WeightStandardization(eps, gain, scale))
