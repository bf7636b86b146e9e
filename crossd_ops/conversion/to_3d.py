"""From a 2D or Cross-D network to a network of volumes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from .acs import ACSConv3d
from .calibration import mean_shifts, recorded_shifts
from .check import check_volumes
from .code.refusals import refuse_images
from .depth import DepthOptions, DepthRequests
from .modules.copies import check_copy, copy_with, walk
from .recipes import CALIBRATED_RECIPES, CONVOLUTIONS_2D, convolution_3d, recipe_for
from .twins import deepen, depth_options, refuse_unknown
from .volumes.network import lift, lift_hooks

Recipe = str | Mapping[str, str]


def to_3d(
    model: nn.Module,
    recipe: Recipe = "published",
    *,
    batches: Iterable[Any] | Mapping[str, Tensor] | None = None,
    depth: DepthOptions | None = None,
    keep_classifier: bool = True,
    progress: bool = True,
    example: Tensor | None = None,
) -> nn.Module:
    """A copy of a 2D network that takes volumes (B, C, D, H, W), with the weights that `recipe` makes of its own.

    Cross-D convolutions (`CrossDConv2d`), whose weight is 3D:

    - "published": `weights_3d` as it is, as the published code does (arXiv 2411.02441).
    - "shifted": `weights_3d` moved by the mean of the shifts that the heads predict on `batches`.
    - "slice-i3d", "slice-acs": the mean over `batches` of the 2D weight that the layer uses, then as "i3d" or "acs".
    - "crossd": `CrossDConv3d`, which predicts a rotation from the volume and convolves with the whole shifted weight;
      the head comes along.

    Plain convolutions:

    - "i3d": the 2D weight repeated along the depth, divided by its number of slices (arXiv 1705.07750).
    - "center": the 2D weight in the middle slice, 0 in the others.
    - "acs": `ACSConv3d`, a third of the channels each in one of three orientations (arXiv 1911.10477).

    In a network that has both kinds, a recipe for Cross-D convolutions means "i3d" for the plain ones ("acs" where it
    is "slice-acs"). Kernels of 1x1 become 1x1x1 with any recipe. Transposed convolutions are inflated with any recipe.

    Along the depth a layer gets what it has along the height: kernel, stride, padding, dilation, factor of upsampling.
    A `CrossDConv2d` has its own kernel size there, padded so as to keep the number of slices where the height's is
    another. Adaptive pooling to more than one row gives one slice, so that linear layers after it still fit. `depth`
    says otherwise, for anisotropic voxels:

        depth={"conv1": {"kernel": 1, "stride": 1, "padding": 0}, "maxpool": {"stride": 1}, "layer?.0.*": {...}}

    with the options kernel, stride, padding, dilation (convolutions, pools), padding (paddings), size (adaptive pools,
    upsampling to a size), scale (upsampling by a factor). A shorter kernel is inflated to that length, or is the middle
    slices of a 3D weight.

    Batch normalisation keeps its statistics; 2D pools, norms, paddings, dropout and upsampling become their 3D twins,
    also timm's `BatchNormAct2d` and `LayerNorm2d`. Every call of torch in the code of a network is seen when it runs:
    what names axes of a map is made for volumes (pools, means, views, paddings, ...), and what may mean an axis and is
    not known raises. Done to the height is done to the depth. Modules with such code get a class made of theirs, by
    the same name. Weights that are standardised where they are used (timm's `StdConv2d`, `WeightStandardization`) come
    along standardised, but are not kept so in training.

    Args:
        model: any module; left as it is.
        recipe: a name, or names by patterns (`fnmatch`) of the convolutions' names, of which the first that matches
            counts.
        batches: for "shifted" and "slice-*", what `calibrate` takes (any iterable of batches) or what it returned.
        depth: options of the depth axis by patterns of names, of which the first that matches counts.
        keep_classifier: False draws the last `nn.Linear` anew.
        progress: show a bar while calibrating, where tqdm is installed.
        example: a small image (B, C, H, W) with which the result is proven before anybody trains it, as
            `crossd_ops.conversion.check_volumes` does: each module sees in a slice what that of `model` sees in it.

    Returns:
        The new model, its parameters and modules under the old names, with flags, hooks and what users put on layers;
        only heads are gone unless with "crossd". Hooks run as the code of the network does.

    Raises:
        ValueError: an unknown recipe, or one that is not for this kind of layer; no `batches` where they are needed;
            patterns that match nothing; sizes that do not fit each other; a module that fails the proof on `example`.
        TypeError: a layer or a network's own code that has no meaning for volumes; the text names it and the reason.
            What a network does with volumes is judged in the first forward, which raises with the name of the
            module, the function and its arguments.
    """
    convolutions = _convolutions(model)
    of_crossd_model = any(isinstance(module, CrossDConv2d) for module in convolutions.values())
    recipes = {
        name: recipe_for(name or "model", module, recipe_of(name or "model", recipe), of_crossd_model)
        for name, module in convolutions.items()
    }
    layers = [name for name, module in walk(model, whole=CONVOLUTIONS_2D) if depth_options(module) is not None]
    requests = DepthRequests(depth, [name or "model" for name in (*convolutions, *layers)])
    if not keep_classifier and not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise ValueError("keep_classifier: expected True for a model without nn.Linear, got False")
    calibrated = {
        name
        for name, module in convolutions.items()
        if isinstance(module, CrossDConv2d) and recipes[name] in CALIBRATED_RECIPES
    }
    check_copy(model, {convolutions[name] for name in calibrated})
    shifts = _shifts(model, calibrated, batches, progress)
    twins = {
        module: convolution_3d(name or "model", module, recipes[name], shifts.get(name), requests)
        for name, module in convolutions.items()
    }
    result = copy_with(model, twins)
    made = {*twins.values()}
    for name, module in walk(result, whole=(CrossDConv3d, ACSConv3d)):
        if module in made:
            continue
        if depth_options(module) is not None:
            deepen(name or "model", module, requests)
        else:
            lift(name or "model", module)
    for name, module in walk(result):
        lift_hooks(name or "model", module)
    if example is not None:
        check_volumes(model, result, example)
    if not keep_classifier:
        [module for _, module in walk(result) if isinstance(module, nn.Linear)][-1].reset_parameters()
    return result


def _convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions of a 2D network by their names; raises where something in it has no 3D twin."""
    convolutions: dict[str, nn.Module] = {}
    for name, module in walk(model, whole=CONVOLUTIONS_2D):
        if isinstance(module, CONVOLUTIONS_2D):
            convolutions[name] = module
        elif depth_options(module) is None:
            refuse_unknown(name or "model", module)
            refuse_images(name or "model", module)
    if not convolutions:
        raise ValueError(f"model: expected 2D convolutions in it, got {type(model).__name__} with none")
    return convolutions


def recipe_of(name: str, recipe: Recipe) -> str:
    """The recipe asked for by the name of a layer."""
    if isinstance(recipe, str):
        return recipe
    if not isinstance(recipe, Mapping):
        raise TypeError(f"recipe: expected a name or a mapping of patterns to names, got {type(recipe).__name__}")
    for pattern, value in recipe.items():
        if fnmatch.fnmatchcase(name, pattern):
            return value
    raise ValueError(f"recipe: expected a pattern for {name}, got {', '.join(recipe)}; '*' matches what is left")


def _shifts(
    model: nn.Module, wanted: set[str], batches: Iterable[Any] | Mapping[str, Tensor] | None, progress: bool
) -> Mapping[str, Tensor]:
    """Shifts (N, 3) of each layer; empty where no layer wants them."""
    if not wanted:
        return {}
    if batches is None:
        raise ValueError(f"batches: expected batches to calibrate on, or what calibrate returned, for {min(wanted)}")
    shifts = recorded_shifts(model, batches, progress=progress)
    means = mean_shifts(model, shifts)
    return {name: values if len(values) else means[name][None] for name, values in shifts.items()}
