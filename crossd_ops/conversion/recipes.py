"""How a 2D or Cross-D convolution becomes one of volumes: the recipes of `to_3d`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import fourier_shift
from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from .acs import ACSConv3d
from .depth import DepthGeometry, DepthRequests, depth_geometry
from .layers_2d import SAME_PADDING, STANDARDIZED, CrossDConv2dSame, WeightStandardization
from .layers_3d import Conv3dSame
from .modules.copies import copy_with
from .modules.parameters import own_parameter, refuse_computed, with_bias_of
from .twins import deepen
from .weights import centered, cropped, depth_first, inflated, inflated_transposed, mean_slice

PLAIN_RECIPES = ("i3d", "center", "acs")
CROSSD_RECIPES = ("published", "shifted", "slice-i3d", "slice-acs", "crossd")
CALIBRATED_RECIPES = ("shifted", "slice-i3d", "slice-acs")
CONVOLUTIONS_2D = (CrossDConv2d, nn.Conv2d, nn.ConvTranspose2d)
_GEOMETRY = ("kernel", "stride", "padding", "dilation")


def recipe_for(name: str, module: nn.Module, recipe: str, of_crossd_model: bool) -> str:
    """The recipe that layer `name` gets where `recipe` is asked for: plain layers of a Cross-D network get a plain one.

    Raises:
        ValueError: there is no such recipe for this kind of layer.
    """
    if isinstance(module, CrossDConv2d):
        if recipe not in CROSSD_RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(CROSSD_RECIPES)} for {name}, got {recipe!r}")
        return recipe
    if recipe in PLAIN_RECIPES:
        return recipe
    if recipe in CROSSD_RECIPES and of_crossd_model:
        return "acs" if recipe == "slice-acs" else "i3d"
    known = f"{', '.join(PLAIN_RECIPES)} for {name}, a plain convolution"
    if of_crossd_model:
        known = f"{', '.join((*PLAIN_RECIPES, *CROSSD_RECIPES))} for {name}"
    raise ValueError(f"recipe: expected one of {known}, got {recipe!r}")


def convolution_3d(
    name: str, module: nn.Module, recipe: str, shifts: Tensor | None, requests: DepthRequests
) -> nn.Module:
    """The 3D convolution that `recipe` makes of a 2D one; its parameters are copies.

    Args:
        name: of the layer, for errors and `requests`.
        module: one of CONVOLUTIONS_2D.
        recipe: as from `recipe_for`.
        shifts: (N, 3), of the samples of the calibration, where the recipe wants them.
        requests: for the depth axis.

    Raises:
        TypeError, ValueError: a layer that computes something else than a convolution; one that the recipe cannot make.
    """
    _check_known(name, module)
    convolution: Any = module
    with torch.no_grad():
        if isinstance(module, nn.ConvTranspose2d):
            twin = _transposed(name, convolution, requests)
        elif isinstance(module, CrossDConv2d):
            twin = _from_crossd(name, module, recipe, shifts, requests)
        elif recipe == "acs" and set(convolution.kernel_size) != {1}:
            twin = _acs(name, convolution, _weight(convolution), requests)
        else:
            geometry = depth_geometry(_like(convolution), requests.of(name, type(module).__name__, _GEOMETRY))
            fill = centered if recipe == "center" else inflated
            twin = _convolution(convolution, fill(_weight(convolution), geometry.kernel), geometry)
    weight = convolution.weights_3d if isinstance(module, CrossDConv2d) else convolution.weight
    for parameter_name in ("weight", "weights_3d"):
        if parameter_name in twin._parameters:
            getattr(twin, parameter_name).requires_grad_(weight.requires_grad)
    return twin


def with_center_weight(module: nn.Module, geometry: DepthGeometry) -> nn.Module:
    """The 3D convolution of this depth with the 2D weight in its middle slice; a Cross-D layer's as it is unshifted."""
    convolution: Any = module
    with torch.no_grad():
        if isinstance(module, nn.ConvTranspose2d):
            return _transposed_of(convolution, geometry)
        if isinstance(module, CrossDConv2d):
            weight = depth_first(module, module.weights_3d)[:, :, module.depth // 2]
        else:
            weight = _weight(convolution)
        if _pads_as_tensorflow(module):
            geometry = geometry._replace(padding="same")
        elif isinstance(convolution.padding, str):  # which an ACSConv3d in its place has as a number
            geometry = geometry._replace(padding=convolution.padding)
        return _convolution(convolution, centered(weight, geometry.kernel), geometry)


def _from_crossd(
    name: str, module: CrossDConv2d, recipe: str, shifts: Tensor | None, requests: DepthRequests
) -> nn.Module:
    if recipe == "crossd":
        return _crossd(name, module, requests)
    weight: Tensor = module.weights_3d
    identity = set(weight.shape[2:]) == {1}
    flat = None
    if recipe.startswith("slice") and not identity:
        assert shifts is not None
        flat = mean_slice(module, shifts)
        if recipe == "slice-acs":
            return _acs(name, module, flat, requests)
    geometry = depth_geometry(_like(module), requests.of(name, type(module).__name__, _GEOMETRY))
    if flat is not None:
        return _convolution(module, inflated(flat, geometry.kernel), geometry)
    if recipe == "shifted" and not identity:
        assert shifts is not None
        weight = fourier_shift(weight, shifts.mean(0, keepdim=True).to(weight.device))[0]
    if geometry.kernel > module.depth:
        raise ValueError(f"depth: expected a kernel up to {module.depth} for {name}, got {geometry.kernel}")
    return _convolution(module, cropped(depth_first(module, weight), geometry.kernel), geometry)


def _check_known(name: str, module: nn.Module) -> None:
    """Raises where `module` computes something else than a convolution with its weight as a parameter."""
    kind: Any = type(module)
    if isinstance(module, CrossDConv2d):
        refuse_computed(name, module, "weights_3d", "bias")
        return
    refuse_computed(name, module, "weight", "bias")
    base: Any = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.ConvTranspose2d
    plain = kind.forward is base.forward and kind._conv_forward is base._conv_forward
    if not (plain or _timm_kind(module) in (*SAME_PADDING, *STANDARDIZED)):
        raise TypeError(
            f"{name}: expected {base.__name__} or a subclass with its forward, got {kind.__name__}, which overrides it "
            "in a way that is not known"
        )


def _timm_kind(module: nn.Module) -> str:
    kind = type(module)
    return kind.__name__ if kind.__module__.partition(".")[0] == "timm" else ""


def _pads_as_tensorflow(module: nn.Module) -> bool:
    if _timm_kind(module) in SAME_PADDING:
        return getattr(module, "same_pad", True)
    return isinstance(module, CrossDConv2dSame)


def _weight(module: Any) -> Tensor:
    """The 2D weight in use: timm's standardised convolutions keep another one."""
    weight: Tensor = module.weight
    if _timm_kind(module) in STANDARDIZED:
        weight = WeightStandardization(module.eps, getattr(module, "gain", None), getattr(module, "scale", 1.0))(weight)
    return weight


def _like(module: Any) -> DepthGeometry:
    """The depth axis as the height has it, but for the size of a kernel that has a depth.

    Whatever else changes the number of rows and slices, a transposed convolution, a pool, goes by the height too.
    """
    size = module.depth if isinstance(module, CrossDConv2d) else module.kernel_size[0]
    stride, dilation = module.stride[0], module.dilation[0]
    if _pads_as_tensorflow(module):
        return DepthGeometry(size, stride, "same", dilation)
    if isinstance(module.padding, str):
        return DepthGeometry(size, stride, module.padding, dilation)
    # A kernel of another depth: what keeps the size of the volume, were the stride 1.
    padding = module.padding[0] if size == module.kernel_size[0] else dilation * (size - 1) // 2
    return DepthGeometry(size, stride, padding, dilation)


def _arguments(module: Any, geometry: DepthGeometry) -> dict[str, Any]:
    padding = geometry.padding if isinstance(geometry.padding, str) else (geometry.padding, *module.padding)
    return {
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "stride": (geometry.stride, *module.stride),
        "padding": padding,
        "dilation": (geometry.dilation, *module.dilation),
        "groups": module.groups,
        "bias": module.bias is not None,
        "padding_mode": module.padding_mode,
        "device": "meta",  # parameters are put in afterwards: none is drawn
    }


def _convolution(module: Any, weight: Tensor, geometry: DepthGeometry) -> nn.Module:
    arguments, kind = _arguments(module, geometry), nn.Conv3d
    if _pads_as_tensorflow(module):
        arguments["padding"], kind = 0, Conv3dSame
    arguments["kernel_size"] = tuple(weight.shape[2:])
    twin = kind(**arguments)
    if isinstance(twin, Conv3dSame) and _timm_kind(module) == "Conv2dSame":
        twin.flat_type = type(module)
    twin.weight = own_parameter(weight.contiguous())
    return with_bias_of(twin, module)


def _acs(name: str, module: Any, weight: Tensor, requests: DepthRequests) -> nn.Module:
    request = requests.of(name, type(module).__name__, ("stride",))
    same = module.padding == "same" or _pads_as_tensorflow(module)
    extents = [rate * (size - 1) for rate, size in zip(module.dilation, module.kernel_size, strict=True)]
    if same and (set(module.stride) != {1} or extents[0] % 2):
        raise ValueError(f"{name}: expected padding='same' with stride 1 and an odd kernel for ACS, got another")
    padding = (extents[0] // 2,) * 2 if same else (0, 0) if module.padding == "valid" else module.padding
    for what, values in (("kernel", module.kernel_size), ("padding", padding), ("dilation", module.dilation)):
        if values[0] != values[1]:
            raise ValueError(
                f"{name}: expected a square {what} for ACS, whose kernels meet every axis, got {tuple(values)}; choose "
                "another recipe for this layer, as in recipe={'" + name + "': ..., '*': ...}"
            )
    arguments = _arguments(module, DepthGeometry(1, request.get("stride", module.stride[0]), "same", 1))
    arguments.update(kernel_size=module.kernel_size[0], padding=padding[0], dilation=module.dilation[0])
    twin = ACSConv3d(**arguments)
    twin.weight = own_parameter(weight)
    return with_bias_of(twin, module)


def _crossd(name: str, module: CrossDConv2d, requests: DepthRequests) -> nn.Module:
    if type(module).predict_shift is not CrossDConv2d.predict_shift:
        raise TypeError(
            f"{name}: expected the head of CrossDConv2d, which CrossDConv3d has too, got {type(module).__name__}"
        )
    geometry = depth_geometry(_like(module), requests.of(name, type(module).__name__, _GEOMETRY[1:]))
    if isinstance(module, CrossDConv2dSame) and set(module.stride) != {1}:
        raise ValueError(f"{name}: expected a stride of 1 with padding='same' for CrossDConv3d, got {module.stride}")
    arguments = _arguments(module, geometry)
    arguments.update(kernel_size=(module.depth, *module.kernel_size), rotation=module.rotation, dim=module.dim)
    twin = CrossDConv3d(**arguments)
    # A circular shift by whole elements: the slice that the 2D layer takes becomes the middle one.
    rolled = module.weights_3d.roll(module.depth // 2 - module.index, 2 + module.dim)
    twin.weights_3d = own_parameter(rolled)
    twin.rotation_params = _volume_head(f"{name}.rotation_params.", module.rotation_params)
    twin.fix_shift(module.fixed_shift)
    return with_bias_of(twin, module)


def _volume_head(prefix: str, layers: nn.Sequential) -> Any:
    """The head with its 1x1 convolutions as 1x1x1, and its norm as it is, but for volumes."""
    nothing = DepthRequests(None, [])
    twins: dict[nn.Module, nn.Module] = {
        layer: convolution_3d(prefix + name, layer, "i3d", None, nothing)
        for name, layer in layers.named_children()
        if isinstance(layer, nn.Conv2d)
    }
    head = copy_with(layers, twins, prefix)
    for name, layer in head.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            refuse_computed(prefix + name, layer, "weight", "bias")
            deepen(prefix + name, layer, nothing)
    return head


def _transposed(name: str, module: Any, requests: DepthRequests) -> nn.Module:
    return _transposed_of(module, depth_geometry(_like(module), requests.of(name, type(module).__name__, _GEOMETRY)))


def _transposed_of(module: Any, geometry: DepthGeometry) -> nn.Module:
    weight, arguments = inflated_transposed(module.weight, geometry), _arguments(module, geometry)
    arguments["kernel_size"] = tuple(weight.shape[2:])
    arguments["output_padding"] = (min(module.output_padding[0], geometry.stride - 1), *module.output_padding)
    twin = nn.ConvTranspose3d(**arguments)
    twin.weight = own_parameter(weight)
    return with_bias_of(twin, module)
