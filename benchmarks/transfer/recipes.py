"""What the transfer benchmark compares: ways to pretrain a 2D network, and recipes that make a 3D network of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import crossd_ops
from benchmarks.transfer.rotation import rotate_randomly, stop_rotating
from benchmarks.transfer.training import BeforeStep, StepContext
from crossd_ops.conversion.calibration import calibrate
from crossd_ops.planes import random_plane, set_plane, sum_of_planes

# Images on which the shifts of a Cross-D network are averaged.
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 512, 128
_ROUGHNESS_WEIGHT = 3e-3


@dataclass(frozen=True)
class Pretraining:
    """How a 2D network is trained."""

    conv: str  # "plain" or "crossd"
    text: str
    before_step: BeforeStep | None = None
    known_planes: bool = False  # each batch from one plane, which `before_step` is told
    shift: float | None = None  # along each axis, for every sample, without the head; 1 is that of the angle 0
    penalty: Callable[[nn.Module], Tensor] | None = None

    def settle(self, network: nn.Module) -> None:
        """Set the layers as they are before and after the training: to the published slice."""
        for layer in _crossd_layers(network):
            layer.dim, layer.index = 0, layer.depth // 2
            stop_rotating(layer)
            if self.shift is not None:
                layer.fix_shift(torch.full((3,), self.shift))


@dataclass(frozen=True)
class Recipe:
    """How a 3D network is made of a pretrained 2D one."""

    pretraining: str  # one of PRETRAININGS
    text: str
    make: Callable[[nn.Module, list[Tensor]], nn.Module]  # of the network and batches of its images
    research: bool = False


def _crossd_layers(network: nn.Module) -> list[crossd_ops.CrossDConv2d]:
    return [module for module in network.modules() if isinstance(module, crossd_ops.CrossDConv2d)]


def _random_plane(network: nn.Module, step: StepContext) -> None:
    random_plane(network, step.generator)


def _known_plane(network: nn.Module, step: StepContext) -> None:
    set_plane(network, step.plane)


def _random_depth(network: nn.Module, step: StepContext) -> None:
    for layer in _crossd_layers(network):
        layer.index = int(torch.randint(layer.depth, (), generator=step.generator))


def _random_plane_and_depth(network: nn.Module, step: StepContext) -> None:
    random_plane(network, step.generator)
    _random_depth(network, step)


def _shift_with_spread(network: nn.Module, step: StepContext) -> None:
    """One random shift for all samples of the step, at all depths between the slices too; the head is not trained."""
    for layer in _crossd_layers(network):
        layer.fix_shift(torch.cat([torch.rand(1, generator=step.generator) * layer.depth, torch.ones(2)]))


def _settling(inner: BeforeStep | None = None) -> BeforeStep:
    """`inner`; from half of the training on, all samples have the mean shift of the moment, as they will in 3D."""

    def before_step(network: nn.Module, step: StepContext) -> None:
        if step.progress >= 0.5 and all(layer.fixed_shift is None for layer in _crossd_layers(network)):
            chosen = torch.randperm(len(step.images), generator=step.generator)[:_CALIBRATION_IMAGES]
            shifts = calibrate(network, step.images[chosen].split(_CALIBRATION_BATCH), progress=False)
            for name, values in shifts.items():
                network.get_submodule(name).fix_shift(values.mean(0))
        if inner is not None:
            inner(network, step)

    return before_step


def _depth_roughness(network: nn.Module) -> Tensor:
    """Squared differences of neighbouring depth slices, which drive the untrained slices towards the trained one."""
    differences = [layer.weights_3d.diff(dim=2).square().sum() for layer in _crossd_layers(network)]
    return _ROUGHNESS_WEIGHT * torch.stack(differences).sum()


def _library(recipe: str) -> Callable[[nn.Module, list[Tensor]], nn.Module]:
    return lambda network, batches: crossd_ops.to_3d(network, recipe, batches=batches, progress=False)


def _reweighted(base: str, change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, list[Tensor]], nn.Module]:
    """The 3D weights of the recipe `base`, changed."""

    def make(network: nn.Module, batches: list[Tensor]) -> nn.Module:
        result = _library(base)(network, batches)
        with torch.no_grad():
            for module in result.modules():
                if isinstance(module, nn.Conv3d) and set(module.kernel_size) != {1}:
                    module.weight.copy_(change(module.weight))
        return result

    return make


def _from_scratch(network: nn.Module, batches: list[Tensor]) -> nn.Module:
    result = _library("i3d")(network, batches)
    for module in result.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return result


def _same_planes(weight: Tensor) -> Tensor:
    return sum_of_planes(weight, same=True)


def _inflated_planes(weight: Tensor) -> Tensor:
    """Each of the three planes repeated along its own axis, and their sum: I3D in three directions."""
    middle = weight.shape[2] // 2
    return sum(weight.select(axis, middle).unsqueeze(axis) for axis in (2, 3, 4)).expand_as(weight) / weight.shape[2]


def _inflated_same_planes(weight: Tensor) -> Tensor:
    plane = weight.select(2, weight.shape[2] // 2)
    return sum(plane.unsqueeze(axis) for axis in (2, 3, 4)).expand_as(weight) / weight.shape[2]


def _thirds(weight: Tensor) -> Tensor:
    """ACS with a plane of its own for each third of the output channels."""
    middle, result = weight.shape[2] // 2, torch.zeros_like(weight)
    thirds = zip((2, 3, 4), result.tensor_split(3), weight.tensor_split(3), strict=True)
    for axis, target, source in thirds:
        target.select(axis, middle).copy_(source.select(axis, middle))
    return result


def _mean_over_depth(weight: Tensor) -> Tensor:
    return weight.mean(2, keepdim=True).expand_as(weight) / weight.shape[2]


def _mean_over_axes(weight: Tensor) -> Tensor:
    """The mean of the weight and of its two cyclic exchanges of axes."""
    return (weight + weight.permute(0, 1, 3, 4, 2) + weight.permute(0, 1, 4, 2, 3)) / 3


PRETRAININGS: dict[str, Pretraining] = {
    "plain": Pretraining("plain", "nn.Conv2d"),
    "published": Pretraining("crossd", "CrossDConv2d as published: always the middle slice along the first axis"),
    "random plane": Pretraining("crossd", "the plane of the weight drawn at random in every step", _random_plane),
    "known plane": Pretraining(
        "crossd",
        "batches of axial, coronal or sagittal slices, each trained on the plane of the weight that it will meet in a "
        "volume",
        _known_plane,
        known_planes=True,
    ),
    "unrotated": Pretraining("crossd", "published, with all angles 0 and no head", shift=1.0),
    "unrotated random plane": Pretraining("crossd", "random plane with all angles 0", _random_plane, shift=1.0),
    "unrotated known plane": Pretraining(
        "crossd", "known plane with all angles 0", _known_plane, known_planes=True, shift=1.0
    ),
    "settled": Pretraining("crossd", "published; halfway the rotation is frozen at its mean", _settling()),
    "settled known plane": Pretraining(
        "crossd", "known plane; halfway the rotation is frozen at its mean", _settling(_known_plane), known_planes=True
    ),
    "random depth": Pretraining(
        "crossd", "all angles 0; a random slice of each layer's weight in every step", _random_depth, shift=1.0
    ),
    "random plane and depth": Pretraining(
        "crossd", "all angles 0; a random plane and slice in every step", _random_plane_and_depth, shift=1.0
    ),
    "shift with spread": Pretraining(
        "crossd",
        "in every step a shift along the depth for each layer, drawn from 0 to K",
        _shift_with_spread,
        shift=1.0,
    ),
    "smooth depth": Pretraining(
        "crossd",
        f"all angles 0; {_ROUGHNESS_WEIGHT:g} times the squared differences of neighbouring slices in the loss",
        shift=1.0,
        penalty=_depth_roughness,
    ),
    "random rotation": Pretraining(
        "crossd",
        "no head, no shift; in every step the weight of each layer truly rotated about its height and width axes, each "
        "angle drawn within 45 degrees to either side",
        rotate_randomly,
        shift=0.0,
    ),
}

RECIPES: dict[str, Recipe] = {
    "scratch": Recipe("plain", "random 3D weights, nothing of the pretraining", _from_scratch),
    "i3d": Recipe("plain", "plain 2D weight repeated along the depth", _library("i3d")),
    "acs": Recipe("plain", "plain 2D weight, a third of the channels in each direction", _library("acs")),
    "center": Recipe("plain", "plain 2D weight in the middle slice", _library("center")),
    "planes": Recipe("plain", "plain 2D weight in all three directions, summed", _reweighted("center", _same_planes)),
    "published": Recipe("published", "3D weight as it is", _library("published")),
    "shifted": Recipe("published", "3D weight moved by the mean shift", _library("shifted")),
    "slice-i3d": Recipe("published", "mean 2D slice repeated along the depth", _library("slice-i3d")),
    "slice-acs": Recipe("published", "mean 2D slice, a third of the channels in each direction", _library("slice-acs")),
    "slice-planes": Recipe(
        "published", "2D slice at the mean shift, in all three directions, summed", _reweighted("shifted", _same_planes)
    ),
    "crossd": Recipe("published", "CrossDConv3d: the head predicts from the volume", _library("crossd")),
}


def _research(name: str, pretraining: str, text: str, make: Callable[[nn.Module, list[Tensor]], nn.Module]) -> None:
    RECIPES[name] = Recipe(pretraining, text, make, research=True)


for _way, _change, _text in (
    ("unrotated", _same_planes, "its middle plane in all three directions, summed"),
    ("unrotated random plane", sum_of_planes, "its three middle planes, summed"),
    ("unrotated known plane", sum_of_planes, "its three middle planes, summed"),
):
    RECIPES[f"{_way}: planes"] = Recipe(_way, _text, _reweighted("shifted", _change))
_research("i3d planes", "plain", "I3D in three directions, summed", _reweighted("center", _inflated_same_planes))
_research(
    "slice-i3d planes",
    "published",
    "2D slice at the mean shift: I3D in three directions, summed",
    _reweighted("shifted", _inflated_same_planes),
)
_research(
    "mean over axes",
    "published",
    "3D weight at the mean shift, averaged over the exchanges of its axes",
    _reweighted("shifted", _mean_over_axes),
)
for _way in ("random plane", "known plane"):
    _research(f"{_way}: shifted", _way, "3D weight at the mean shift, whole", _library("shifted"))
    _research(f"{_way}: slice-i3d", _way, "mean 2D slice of the first axis, repeated", _library("slice-i3d"))
    _research(f"{_way}: thirds", _way, "ACS, each third with its own plane", _reweighted("shifted", _thirds))
    _research(
        f"{_way}: i3d planes",
        _way,
        "each middle plane repeated along its axis, summed",
        _reweighted("shifted", _inflated_planes),
    )
_research("settled: planes", "settled", "as unrotated: planes", _reweighted("shifted", _same_planes))
for _way in ("random plane", "known plane", "settled known plane"):
    _research(f"{_way}: planes", _way, "its three middle planes, summed", _reweighted("shifted", sum_of_planes))
for _way in ("unrotated", "settled", "unrotated random plane", "unrotated known plane", "settled known plane"):
    _research(f"{_way}: slice-i3d", _way, "the middle plane of the first axis, repeated", _library("slice-i3d"))
for _way in ("random depth", "random plane and depth", "shift with spread", "smooth depth"):
    _research(f"{_way}: shifted", _way, "3D weight as it stands in training, whole", _library("shifted"))
    _research(f"{_way}: mean", _way, "mean over the depth, repeated", _reweighted("shifted", _mean_over_depth))
_way = "random rotation"
_research(f"{_way}: shifted", _way, "3D weight as it is before the rotations, whole", _library("shifted"))
_research(f"{_way}: slice-i3d", _way, "the middle plane of the first axis, repeated", _library("slice-i3d"))
_research(f"{_way}: planes", _way, "its three middle planes, summed", _reweighted("shifted", sum_of_planes))

RESEARCH_RECIPES = [name for name, recipe in RECIPES.items() if recipe.research]
DEFAULT_RECIPES = {
    "classification": [name for name, recipe in RECIPES.items() if not recipe.research],
    # A UNet takes longer: one recipe of each kind.
    "segmentation": [
        "scratch",
        "i3d",
        "acs",
        "planes",
        "published",
        "slice-i3d",
        "slice-acs",
        "slice-planes",
        "unrotated known plane: planes",
    ],
}


def make_network_3d(recipe: str, network: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """The 3D network of a recipe, from a pretrained network and the images that it was pretrained on."""
    torch.manual_seed(seed)
    chosen = torch.randperm(len(images))[:_CALIBRATION_IMAGES]
    return RECIPES[recipe].make(network, [images[part] for part in chosen.split(_CALIBRATION_BATCH)])
