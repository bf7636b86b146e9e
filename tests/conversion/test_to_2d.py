"""to_2d: there and back again by every recipe, bit for bit where the mathematics allows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.models import CONVOLUTIONS, build_model
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv3d, to_2d, to_3d
from crossd_ops.conversion import Conv3dSame, CrossDConv2dSame


def make(name: str, kind: str) -> nn.Module:
    model = build_model(name, CONVOLUTIONS[kind], classes=5, width=8 if name == "resnet18" else 4)
    model(torch.randn(4, 3, 32, 32))  # statistics that are not those of the start
    return model.eval()


def states(model: nn.Module, without: str = "none") -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if without not in name}


def assert_same_states(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert [*mine] == [*theirs]
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_published(name: str) -> None:
    model = make(name, "crossd")
    input = torch.randn(2, 3, 32, 32)
    back = to_2d(to_3d(model, example=input[:1]))
    # 1x1 convolutions come back plain: their 3D weight is their 2D one.
    mine, theirs = states(back, "rotation_params"), states(model, "rotation_params")
    pointwise = {name for name, module in back.named_modules() if isinstance(module, nn.Conv2d)}
    for module_name in pointwise & {name for name, module in model.named_modules() if isinstance(module, CrossDConv2d)}:
        weight = theirs.pop(f"{module_name}.weights_3d")
        assert torch.equal(mine.pop(f"{module_name}.weight"), weight[:, :, 0])
    assert set(mine) == set(theirs)
    for key, tensor in mine.items():
        assert torch.equal(tensor, theirs[key]), key
    for part in (model, back):
        for module in part.modules():
            if isinstance(module, CrossDConv2d):
                module.fix_shift(torch.tensor([0.9, 1.1, 0.7]))
    torch.testing.assert_close(back(input), model(input))


@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_crossd(name: str) -> None:
    model = make(name, "crossd")
    input = torch.randn(2, 3, 32, 32)
    deep = to_3d(model, "crossd", example=input[:1])
    assert any(isinstance(module, CrossDConv3d) for module in deep.modules())
    back = to_2d(deep, "crossd")
    assert_same_states(states(back), states(model))
    assert str(back) == str(model)
    torch.testing.assert_close(back(input), model(input), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["center", "acs"])
@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_exact_recipes_of_plain_networks(name: str, recipe: str) -> None:
    model = make(name, "plain")
    input = torch.randn(2, 3, 32, 32)
    back = to_2d(to_3d(model, recipe, example=input[:1]), recipe)
    assert_same_states(states(back), states(model))
    assert [type(module) for module in back.modules()] == [type(module) for module in model.modules()]
    assert torch.equal(back(input), model(input))


def test_inflation_is_undone_to_rounding() -> None:
    model, input = make("resnet18", "plain"), torch.randn(2, 3, 32, 32)
    back = to_2d(to_3d(model, "i3d", example=input[:1]), "i3d")
    for name, tensor in states(back).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(back(input), model(input))


def test_the_slice_recipes_come_back_as_the_network_with_the_mean_slice() -> None:
    model, input = make("resnet18", "crossd"), torch.randn(2, 3, 32, 32)
    shift = torch.tensor([0.8, 1.3, 1.0])
    for module in model.modules():
        if isinstance(module, CrossDConv2d):
            module.fix_shift(shift)
    for recipe in ("slice-i3d", "slice-acs"):
        back = to_2d(to_3d(model, recipe, batches=[input], progress=False, example=input[:1]), recipe)
        assert not any(isinstance(module, CrossDConv2d) for module in back.modules())
        torch.testing.assert_close(back(input), model(input), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": (4, 3), "stride": (3, 1), "dilation": 2, "bias": False},
    ],
    ids=str,
)
def test_transposed_convolutions(arguments: dict) -> None:
    layer = nn.ConvTranspose2d(4, 6, **arguments)
    input = torch.randn(2, 4, 5, 6)
    back = to_2d(to_3d(layer, "i3d", example=input), "i3d")
    torch.testing.assert_close(back.weight, layer.weight)
    torch.testing.assert_close(back(input), layer(input))


def test_what_is_not_published_in_a_crossd_layer() -> None:
    shift = torch.tensor([0.4, -0.6, 1.5])
    for arguments in (
        {"kernel_size": 3, "dim": 1, "index": 2, "padding": "same", "dilation": 2},
        {
            "kernel_size": (1, 4),
            "dim": 2,
            "stride": 2,
            "rotation": "exact",
            "padding_mode": "circular",
            "padding": (0, 2),
        },
        {"kernel_size": 3, "depth": 5, "index": 0, "groups": 2, "bias": False},
    ):
        layer = CrossDConv2d(4, 6, **arguments).eval()
        input = torch.randn(3, 4, 8, 8)
        back = to_2d(to_3d(layer, "crossd", example=input))
        torch.testing.assert_close(back(input), layer(input))
        layer.fix_shift(shift)
        back = to_2d(to_3d(layer, "crossd", example=input))
        torch.testing.assert_close(back(input), layer(input))
        if layer.dim == 0:
            back = to_2d(to_3d(layer, example=input))
            back.fix_shift(shift)
            torch.testing.assert_close(back(input), layer(input))


def test_timms_padding() -> None:
    layer = CrossDConv2dSame(3, 4, 3, stride=2)
    deep = to_3d(layer, example=torch.randn(2, 3, 7, 8))
    back = to_2d(deep)
    assert type(back) is CrossDConv2dSame and torch.equal(back.weights_3d, layer.weights_3d)
    for part in (layer, back):
        part.fix_shift(torch.ones(3))
    input = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(back(input), layer(input))
    assert type(deep) is Conv3dSame
    with pytest.raises(
        ValueError, match=r"model: expected a stride of 1, got \(2, 2, 2\): torch has no plain 2D layer"
    ):
        to_2d(deep, "i3d")
    assert to_2d(to_3d(CrossDConv2dSame(3, 4, 3)), "i3d").padding == "same"


def test_recipes_by_name_and_depth_that_was_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), CrossDConv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    image = torch.randn(1, 3, 12, 13)
    deep = to_3d(model, depth={"0": {"kernel": 1}, "1": {"kernel": 1, "stride": 1}, "2": {"stride": 2}}, example=image)
    back = to_2d(deep, {"0": "i3d", "*": "published"})
    assert [type(module) for module in back] == [type(module) for module in model]
    assert torch.equal(back[0].weight, model[0].weight) and torch.equal(back[3].weight, model[3].weight)
    assert torch.equal(back[2].weights_3d, model[2].weights_3d) and back[2].stride == (1, 1)
    assert back[1].kernel_size == (2, 2) and back[1].stride == (2, 2)


def test_the_model_is_left_alone() -> None:
    deep = to_3d(make("resnet18", "crossd"), "crossd", example=torch.randn(1, 3, 32, 32))
    deep.conv1.weights_3d.requires_grad_(False)
    deep.conv1.rotation_params[1].train()
    before, state = copy.deepcopy(deep.state_dict()), torch.get_rng_state()
    back = to_2d(deep)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_states(states(deep), before)
    assert type(deep.bn1) is nn.BatchNorm3d and type(back.bn1) is nn.BatchNorm2d
    assert not back.conv1.weights_3d.requires_grad and back.conv1.rotation_params[0].weight.requires_grad
    assert back.conv1.rotation_params[1].training and not back.conv1.training


class VolumePool(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool3d(input, 1)


class OtherConv3d(nn.Conv3d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


REFUSED = [
    (nn.Conv3d(4, 4, 3), "shifted", ValueError, "1: .* got 'shifted': the shift that was baked in is not"),
    (nn.Conv3d(4, 4, 3), "acs", ValueError, "1: .* got 'acs': such networks have ACSConv3d in its place, not Conv3d"),
    (nn.Conv3d(4, 4, 3), "inflate", ValueError, "recipe: expected one of .* for 0, got 'inflate'"),
    (nn.Conv3d(4, 4, (1, 1, 17)), "published", ValueError, "1: expected kernel sizes up to 15 for CrossDConv2d"),
    (nn.FractionalMaxPool3d(2, 1), "i3d", TypeError, "1: expected a layer with a known 2D twin, got Fractional"),
    (OtherConv3d(4, 4, 3), "i3d", TypeError, "1: expected Conv3d or a subclass with its forward, got OtherConv3d"),
    (nn.LazyConv3d(4, 3), "i3d", TypeError, "1: expected a weight, got a lazy LazyConv3d"),
    (nn.utils.parametrizations.weight_norm(nn.Conv3d(4, 4, 3)), "i3d", ValueError, "1: expected a weight that"),
    (VolumePool(), "i3d", TypeError, "1: expected code .* got VolumePool, which calls adaptive_avg_pool3d"),
]  # fmt: skip


@pytest.mark.parametrize("layer, recipe, error, text", REFUSED)
def test_refusals_name_the_layer_and_the_reason(
    layer: nn.Module, recipe: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        to_2d(nn.Sequential(ACSConv3d(4, 4, 3), layer), recipe)


def test_a_network_without_volumes() -> None:
    with pytest.raises(ValueError, match="model: expected 3D convolutions in it, got Conv2d with none"):
        to_2d(nn.Conv2d(3, 3, 3))
