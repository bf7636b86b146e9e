"""What replacements inherit: attributes that users put on a layer, its training flag and hooks, in every converter."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import library
from torch import nn
from torch.nn.utils import prune

from crossd_ops import (
    ACSConv3d,
    CrossDConv2d,
    CrossDConv3d,
    adapt_input_channels,
    bake,
    to_2d,
    to_3d,
    to_crossd,
    with_early_heads,
)
from crossd_ops.conversion import Conv3dSame, CrossDConv2dSame

Convert = Callable[[nn.Module], Any]


def baked(model: nn.Module) -> nn.Module:
    axes = 3 if any(isinstance(module, CrossDConv3d) for module in model.modules()) else 2
    return bake(model, [torch.randn(2, 1, *(8,) * axes)], progress=False)


def proven(recipe: str) -> Convert:
    return lambda model: to_3d(model, recipe, example=torch.linspace(-1, 1, 42).view(1, 1, 6, 7))


CONVERTERS: dict[str, tuple[Callable[[], nn.Module], Convert]] = {
    "to_crossd": (lambda: nn.Conv2d(1, 4, 3), to_crossd),
    "to_3d": (lambda: nn.Conv2d(1, 4, 3), proven("i3d")),
    "to_3d, transposed": (lambda: nn.ConvTranspose2d(1, 4, 3), proven("i3d")),
    "to_3d, acs": (lambda: nn.Conv2d(1, 4, 3), proven("acs")),
    "to_3d, published": (lambda: CrossDConv2d(1, 4, 3), proven("published")),
    "to_3d, crossd": (lambda: CrossDConv2d(1, 4, 3), proven("crossd")),
    "to_3d, same": (lambda: CrossDConv2dSame(1, 4, 3, 2), proven("published")),
    "to_2d": (lambda: nn.Conv3d(1, 4, 3), lambda model: to_2d(model, "i3d")),
    "to_2d, published": (lambda: nn.Conv3d(1, 4, 3), to_2d),
    "to_2d, transposed": (lambda: nn.ConvTranspose3d(1, 4, 3), to_2d),
    "to_2d, acs": (lambda: ACSConv3d(1, 4, 3), to_2d),
    "to_2d, crossd": (lambda: CrossDConv3d(1, 4, 3), to_2d),
    "to_2d, same": (lambda: Conv3dSame(1, 4, 3), to_2d),
    "bake": (lambda: CrossDConv2d(1, 4, 3), baked),
    "bake, same": (lambda: CrossDConv2dSame(1, 4, 3, 2), baked),
    "bake, 3d": (lambda: CrossDConv3d(1, 4, 3), baked),
    "with_early_heads": (lambda: CrossDConv2d(1, 4, 3), with_early_heads),
    "adapt_input_channels": (lambda: nn.Conv2d(1, 4, 3), lambda model: adapt_input_channels(model, 2)),
}


@pytest.fixture(params=CONVERTERS)
def case(request: pytest.FixtureRequest) -> tuple[Any, Convert]:
    """A network of one layer, and what converts it."""
    build, convert = CONVERTERS[request.param]
    return nn.Sequential(build()).eval(), convert


def test_attributes(case: tuple[Any, Convert]) -> None:
    model, convert = case
    layer = model[0]
    # "From" and number, as networks of the YOLO family have on each part, references, and mutable values.
    layer.f, layer.i, layer.tags, layer._is_hf_initialized = [-1, 3], 0, {"stage": torch.arange(3)}, True
    layer.__dict__["network"] = model
    layer.others = [layer]
    twin = convert(model)
    assert twin[0] is not layer
    assert (twin[0].f, twin[0].i, twin[0]._is_hf_initialized) == ([-1, 3], 0, True)
    assert torch.equal(twin[0].tags["stage"], torch.arange(3))
    assert twin[0].network is twin and twin[0].others[0] is twin[0]
    twin[0].f.append(4)
    assert layer.f == [-1, 3] and layer.network is model and layer.others == [layer]


def test_nothing_else_comes_along(case: tuple[Any, Convert]) -> None:
    """A replacement has what a layer of its type has, and none of what made up the layer before."""
    model, convert = case
    twin = convert(model)[0]
    if not isinstance(twin, torch.fx.GraphModule):
        known = vars(type(twin)(2, 4, 3, device="meta"))
        assert set(vars(twin)) <= set(known) | {"flat_type"}
    assert not any(hasattr(twin, name) for name in ("rotation", "depth")) or isinstance(
        twin, CrossDConv2d | CrossDConv3d
    )


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_and_hooks(case: tuple[Any, Convert], training: bool) -> None:
    model, convert = case
    model.train(not training)[0].train(training)
    calls: list[nn.Module] = []
    model[0].register_forward_hook(lambda module, arguments, output: calls.append(module))
    twin = convert(model)
    assert [module.training for module in twin.modules()] == [not training] + [training] * (len([*twin.modules()]) - 1)
    assert len(twin[0]._forward_hooks) == 1
    [hook] = twin[0]._forward_hooks.values()
    hook(twin[0], (), None)
    assert calls[-1] is twin[0]


class Tagged(nn.Conv2d):
    """Data of the class, a slot, and a property, beside attributes."""

    stage = 3
    blocks = nn.ReLU  # a class
    __slots__ = ("slot",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.slot, self._index = "first", 7

    @property
    def position(self) -> int:
        return self._index

    @property
    def trainer(self) -> None:
        raise RuntimeError("not attached")


@pytest.mark.parametrize("convert", [to_crossd, proven("i3d")], ids=["to_crossd", "to_3d"])
def test_subclasses_of_users(convert: Convert) -> None:
    twin = convert(nn.Sequential(Tagged(1, 4, 3)))[0]
    assert (twin.stage, twin.blocks, twin.slot, twin._index) == (3, nn.ReLU, "first", 7)
    with pytest.raises(AttributeError, match="position"):
        _ = twin.position


def test_attributes_go_all_the_way() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model[0].f, model[1].f, model[2].f = -1, -2, [0, 1]
    crossd = pickle.loads(pickle.dumps(copy.deepcopy(to_crossd(model))))
    published, volumes = (proven(recipe)(crossd) for recipe in ("published", "crossd"))
    for twin in (baked(crossd), to_2d(published), to_2d(volumes), baked(volumes)):
        assert [layer.f for layer in twin] == [-1, -2, [0, 1]]


def test_layers_of_timm_keep_what_they_know() -> None:
    layers = library("timm").layers
    model = nn.Sequential(layers.ScaledStdConv2dSame(3, 4, 3), layers.Conv2dSame(4, 4, 3))
    twin: Any = to_crossd(model)
    assert (twin[0].eps, twin[0].scale, twin[0].same_pad) == (model[0].eps, model[0].scale, model[0].same_pad)
    volumes: Any = to_3d(model, "i3d", example=torch.randn(1, 3, 6, 7))
    assert type(to_2d(volumes, "i3d")[1]) is layers.Conv2dSame
    assert volumes[0].scale == model[0].scale


def test_the_layers_of_a_head_inherit_too() -> None:
    model = CrossDConv2d(1, 4, 3)
    calls: list[int] = []
    for layer in model.rotation_params:
        layer.f = type(layer).__name__
        layer.register_forward_hook(lambda module, arguments, output: calls.append(output.dim()))
    model.rotation_params[0].eval()
    model.rotation_params[3].weight.requires_grad_(False)
    volumes: Any = to_3d(model, "crossd", example=torch.randn(1, 1, 5, 5))
    calls.clear()  # of the proof, which runs the hooks of its copies
    for twin, axes in ((volumes, 3), (to_2d(volumes), 2)):
        head = twin.rotation_params
        assert [layer.f for layer in head] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
        assert [layer.training for layer in head] == [False, True, True, True]
        assert [layer.weight.requires_grad for layer in (head[0], head[3])] == [True, False]
        twin(torch.randn(2, 1, *(5,) * axes))
        assert calls == [2 + axes] * 4
        calls.clear()


def test_fixed_shifts_come_along_with_early_heads() -> None:
    model = nn.Sequential(CrossDConv2d(1, 4, 3))
    model[0].fix_shift(torch.tensor([0.4, 1.0, 0.6]))
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(with_early_heads(model)(images), model(images))


def with_attribute(layer: nn.Module, name: str, value: Any) -> nn.Module:
    vars(layer)[name] = value
    return nn.Sequential(nn.Conv2d(4, 1, 1), layer)


def with_buffer(layer: nn.Module) -> nn.Module:
    layer.register_buffer("mask", torch.ones(3))
    return nn.Sequential(nn.Conv2d(4, 1, 1), layer)


def with_part(layer: nn.Module) -> nn.Module:
    layer.adapter = nn.Conv2d(1, 4, 3)
    return nn.Sequential(nn.Conv2d(4, 1, 1), layer)


def pruned(layer: nn.Module, name: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 1, 1), prune.l1_unstructured(layer, name, 0.5))


REFUSED: dict[str, tuple[Callable[[], nn.Module], Convert, type[Exception], str]] = {
    "a name of the layer's": (
        lambda: with_attribute(nn.Conv2d(1, 4, 3), "index", 5), to_crossd, ValueError,
        r"^1\.index: expected attributes by other names than CrossDConv2d has, got 5",
    ),
    "a name of a part": (
        lambda: with_attribute(nn.Conv2d(1, 4, 3), "rotation_params", 5), to_crossd, ValueError,
        r"^1\.rotation_params: ",
    ),
    "a name of a method": (
        lambda: with_attribute(nn.Conv2d(1, 4, 3), "predict_shift", 5), to_crossd, ValueError, r"^1\.predict_shift: ",
    ),
    "no copy": (
        lambda: with_attribute(CrossDConv2d(1, 4, 3), "f", (step for step in range(3))), with_early_heads, TypeError,
        r"^1\.f: expected an attribute that copy\.deepcopy copies, got generator",
    ),
    "a buffer": (
        lambda: with_buffer(CrossDConv2d(1, 4, 3)), baked, ValueError,
        "^1: expected weights_3d and bias and fixed_shift and rotation_params alone, got mask too",
    ),
    "a buffer, to_3d": (
        lambda: with_buffer(nn.Conv2d(1, 4, 3)), lambda model: to_3d(model, "i3d"), ValueError,
        "^1: expected weight and bias alone, got mask too",
    ),
    "a part": (lambda: with_part(CrossDConv2d(1, 4, 3)), with_early_heads, ValueError, "^1: .* got adapter too"),
    "a part, to_2d": (lambda: with_part(ACSConv3d(1, 4, 3)), to_2d, ValueError, "^1: .* got adapter too"),
    "pruned": (lambda: pruned(CrossDConv2d(1, 4, 3), "weights_3d"), baked, ValueError, "^1: .* weights_3d .*pruning"),
    "pruned, to_3d": (lambda: pruned(CrossDConv2d(1, 4, 3), "bias"), to_3d, ValueError, "^1: .* bias .*pruning"),
}  # fmt: skip


@pytest.mark.parametrize("build, convert, error, text", REFUSED.values(), ids=REFUSED)
def test_refused(build: Callable[[], nn.Module], convert: Convert, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        convert(build())
