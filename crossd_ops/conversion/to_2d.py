"""From a network of volumes back to a 2D or a Cross-D network: the inverses of the recipes of `to_3d`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from ..operators.checks import MAX_KERNEL
from .acs import ACSConv3d
from .code.refusals import refuse_volumes
from .layers_2d import CrossDConv2dSame
from .layers_3d import Conv3dSame
from .modules.copies import copy_with, walk
from .modules.parameters import own_parameter, refuse_computed, with_bias_of
from .recipes import CROSSD_RECIPES, PLAIN_RECIPES
from .to_3d import Recipe, recipe_of
from .twins import flatten
from .volumes.network import lower, lower_hooks
from .weights import deflated_transposed

_CONVOLUTIONS = (CrossDConv3d, ACSConv3d, nn.Conv3d, nn.ConvTranspose3d)
# The recipes with which `to_3d` inflates; "crossd" does so with the plain layers of a Cross-D network.
_SUMMED = ("i3d", "slice-i3d", "crossd")


def to_2d(model: nn.Module, recipe: Recipe = "published") -> nn.Module:
    """A copy of a 3D network that takes images (B, C, H, W): undoes `to_3d(model, recipe)`; its depth is dropped.

    `ACSConv3d` becomes `nn.Conv2d` with its weight, and `CrossDConv3d` becomes `CrossDConv2d` with its weight and head,
    whatever the recipe. Of an `nn.Conv3d` the recipe says how its weight came about:

    - "published": it is the 3D weight of a `CrossDConv2d` (exact). The head, which such a network does not have, is
      drawn anew. Kernels of 1x1x1 become plain 1x1.
    - "i3d", "slice-i3d", "crossd": a plain 2D weight was repeated; it is the sum over the depth (to rounding).
    - "center": a plain 2D weight is in the middle slice (exact).
    - "acs", "slice-acs": none but kernels of 1x1x1 is left.
    - "shifted": refused, as the shift that was baked in is not known any more. "published" takes such weights for 3D
      weights with other shifts.

    Transposed convolutions are what they were inflated from (to rounding). Norms, pools, paddings, dropout and
    upsampling become their 2D twins, statistics kept.

    Networks that were 3D from the start are taken as well. Their layers lose the depth; every call of torch in their
    own code is seen when it runs, and passes where it means the same for images: on elements, channels, whole maps,
    for any number of axes. What counts the depth (mean((2, 3, 4)), a permutation, paddings of six sides) raises.

    Args:
        model: any module; left as it is.
        recipe: a name, or names by patterns (`fnmatch`) of the convolutions' names, of which the first that matches
            counts, as for `to_3d`.

    Returns:
        The new model, its parameters and modules under the old names, with flags, hooks and what users put on layers.

    Raises:
        ValueError: an unknown recipe, or one that has no inverse for a layer; kernels above 15 for `CrossDConv2d`.
        TypeError: a 3D layer, or code of a network, that has no 2D twin. The text names the layer and the reason. What
            the code of a network that was 3D from the start does with images is judged in the first forward.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in walk(model, whole=(CrossDConv3d, ACSConv3d)):
        if isinstance(module, _CONVOLUTIONS):
            twins[module] = _convolution_2d(name or "model", module, recipe_of(name or "model", recipe))
    if not twins:
        raise ValueError(f"model: expected 3D convolutions in it, got {type(model).__name__} with none")
    result = copy_with(model, twins)
    made = {*twins.values()}
    for name, module in walk(result, whole=(CrossDConv2d,)):
        if module in made or flatten(module):
            continue
        if type(module).__name__.lower().endswith("3d"):
            raise TypeError(f"{name}: expected a layer with a known 2D twin, got {type(module).__name__}")
        lower(name or "model", module)
        refuse_volumes(name or "model", module)
    for name, module in walk(result):
        lower_hooks(name or "model", module)
    return result


def _convolution_2d(name: str, module: Any, recipe: str) -> nn.Module:
    if recipe not in (*CROSSD_RECIPES, *PLAIN_RECIPES):
        raise ValueError(
            f"recipe: expected one of {', '.join((*CROSSD_RECIPES, *PLAIN_RECIPES))} for {name}, got {recipe!r}"
        )
    refuse_computed(name, module, "weights_3d" if isinstance(module, CrossDConv3d) else "weight", "bias")
    if isinstance(module, CrossDConv3d):
        twin = _crossd_of_crossd(name, module)
    elif isinstance(module, ACSConv3d):
        twin = _plain(name, module, module.weight)
    else:
        _check_known(name, module)
        pointwise = set(module.kernel_size) == {1}
        if isinstance(module, nn.ConvTranspose3d):
            weight = deflated_transposed(module.weight, module.stride[0], module.dilation[0])
            twin = _plain(name, module, weight, output_padding=module.output_padding[1:])
        elif recipe == "published" and not pointwise:
            twin = _crossd(name, module)
        else:
            twin = _plain(name, module, _flat_weight(name, module, recipe))
    return twin


def _check_known(name: str, module: nn.Module) -> None:
    base: Any = nn.Conv3d if isinstance(module, nn.Conv3d) else nn.ConvTranspose3d
    kind: Any = type(module)
    if kind is not Conv3dSame and kind.forward is not base.forward:
        raise TypeError(
            f"{name}: expected {base.__name__} or a subclass with its forward, got {kind.__name__}, which overrides it "
            "in a way that is not known"
        )


def _flat_weight(name: str, module: nn.Conv3d, recipe: str) -> Tensor:
    weight = module.weight.detach()
    if set(module.kernel_size) == {1}:
        return weight[:, :, 0].clone()
    if recipe in _SUMMED:
        return weight.sum(2)
    if recipe == "center":
        return weight[:, :, weight.shape[2] // 2].clone()
    reason = "the shift that was baked in is not known any more"
    if recipe != "shifted":
        reason = f"such networks have ACSConv3d in its place, not {type(module).__name__}"
    raise ValueError(f"{name}: expected a recipe with an inverse for this layer, got {recipe!r}: {reason}")


def _arguments(module: Any) -> dict[str, Any]:
    def flat(value: Any) -> Any:
        return value[1:] if isinstance(value, tuple) else value

    return {
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "kernel_size": flat(module.kernel_size),
        "stride": flat(module.stride),
        "padding": flat(module.padding),
        "dilation": flat(module.dilation),
        "groups": module.groups,
        "bias": module.bias is not None,
        "padding_mode": module.padding_mode,
    }


def _plain(name: str, module: Any, weight: Tensor, **options: Any) -> nn.Module:
    arguments = _arguments(module)
    kind: Any = nn.ConvTranspose2d if isinstance(module, nn.ConvTranspose3d) else nn.Conv2d
    if isinstance(module, Conv3dSame) and module.flat_type is None:
        if set(module.stride) != {1}:
            raise ValueError(
                f"{name}: expected a stride of 1, got {module.stride}: torch has no plain 2D layer with TensorFlow's "
                "padding at a stride"
            )
        arguments["padding"] = "same"
    twin = kind(**arguments, **options, device="meta")
    if isinstance(module, Conv3dSame) and module.flat_type is not None:
        twin.__class__ = module.flat_type
    twin.weight = own_parameter(weight, module.weight.requires_grad)
    return with_bias_of(twin, module)


def _crossd(name: str, module: nn.Conv3d) -> nn.Module:
    """The layer whose 3D weight became that of `module`; it has a new head."""
    if max(module.kernel_size) > MAX_KERNEL:
        raise ValueError(f"{name}: expected kernel sizes up to {MAX_KERNEL} for CrossDConv2d, got {module.kernel_size}")
    arguments = _arguments(module)
    kind: type[CrossDConv2d] = CrossDConv2d
    if isinstance(module, Conv3dSame):
        kind = CrossDConv2dSame
        del arguments["padding"], arguments["padding_mode"]
    weight = module.weight
    twin = kind(**arguments, depth=module.kernel_size[0], device=weight.device, dtype=weight.dtype)
    twin.requires_grad_(weight.requires_grad).train(module.training)
    with torch.no_grad():
        twin.weights_3d.copy_(weight)
    return with_bias_of(twin, module)


def _crossd_of_crossd(name: str, module: CrossDConv3d) -> nn.Module:
    arguments = _arguments(module)
    arguments.update(rotation=module.rotation, dim=module.dim, depth=module.kernel_size[0], device="meta")
    twin = CrossDConv2d(**arguments)
    weight = module.weights_3d
    twin.weights_3d = own_parameter(weight, weight.requires_grad)
    twin.rotation_params = _image_head(f"{name}.rotation_params.", module.rotation_params)
    twin.fix_shift(module.fixed_shift)
    return with_bias_of(twin, module)


def _image_head(prefix: str, layers: nn.Sequential) -> Any:
    twins: dict[nn.Module, nn.Module] = {
        layer: _convolution_2d(prefix + name, layer, "i3d")
        for name, layer in layers.named_children()
        if isinstance(layer, nn.Conv3d)
    }
    head = copy_with(layers, twins, prefix)
    for name, layer in head.named_children():
        if isinstance(layer, nn.BatchNorm3d):
            refuse_computed(prefix + name, layer, "weight", "bias")
        flatten(layer)
    return head
