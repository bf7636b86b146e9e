"""The proof that a network of volumes is the network of images that it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from model_zoo import ZOO, enliven
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, to_3d, to_crossd
from crossd_ops.conversion import CrossDConv2dSame, check_volumes


class Parts(nn.Module):
    """Every kind of layer that meets the ends of a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ZeroPad2d(1), nn.AvgPool2d(3, 1, 1), nn.Dropout(),
            nn.Conv2d(4, 4, 2, padding=1), nn.Conv2d(4, 4, 4, padding="same"), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(4, 4, 1, padding=1), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.ConvTranspose2d(4, 4, 4, 2, 1),
            nn.ConvTranspose2d(4, 4, 3, 1, 2, dilation=2), nn.Upsample(scale_factor=2, mode="bilinear"),
        )  # fmt: skip
        self.last = nn.Linear(4, 2)

    def forward(self, input: Tensor) -> Tensor:
        features = F.avg_pool2d(F.pad(self.parts(input), (1, 1, 1, 1)), 3, stride=2, padding=1)
        return self.last(features.mean((2, 3)) + F.adaptive_max_pool2d(features, 1).flatten(1))


def enlivened(model: nn.Module) -> nn.Module:
    model(torch.randn(4, 3, 12, 12))
    return model


@pytest.mark.parametrize("recipe", ["i3d", "center"])
@pytest.mark.parametrize("slices", [None, 5])
def test_a_right_network_passes_and_is_left_alone(recipe: str, slices: int | None) -> None:
    model, image = enlivened(Parts()), torch.randn(2, 3, 12, 14)
    volumes = to_3d(model, recipe)
    before = [copy.deepcopy(network.state_dict()) for network in (model, volumes)]
    state = torch.get_rng_state()
    check_volumes(model, volumes, image, slices=slices)
    assert torch.equal(torch.get_rng_state(), state) and model.training and volumes.training
    for network, kept in zip((model, volumes), before, strict=True):
        torch.testing.assert_close(network.state_dict(), kept, rtol=0, atol=0)
        assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("recipe", ["published", "crossd", {"2": "i3d", "*": "slice-acs"}])
def test_cross_d_layers_and_anisotropic_volumes(recipe: str | dict[str, str]) -> None:
    model = nn.Sequential(
        CrossDConv2d(3, 4, 3, padding=1, dim=1), nn.ReLU(), nn.Conv2d(4, 4, (1, 3), (1, 2)), CrossDConv2d(4, 4, 3)
    )
    nn.init.normal_(model[0].rotation_params[3].weight)
    image = torch.randn(2, 3, 7, 8)
    to_3d(model, recipe, batches=[image], progress=False, example=image)
    if recipe == "published":
        to_3d(model, recipe, depth={"0": {"kernel": 1, "stride": 2}}, example=image)
        to_3d(nn.Sequential(CrossDConv2dSame(3, 4, 3, stride=2), nn.Conv2d(4, 2, 3)), example=image)
        to_3d(to_crossd(Parts()), example=torch.randn(1, 3, 12, 12))


class Wrong(nn.Module):
    def __init__(self, wrong: nn.Module) -> None:
        super().__init__()
        self.conv, self.wrong, self.last = nn.Conv2d(3, 4, 3), wrong, nn.Conv2d(4, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.last(self.wrong(self.conv(input)))


class Summed(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input * input.sum((2, 3), keepdim=True)


def test_the_first_module_that_differs_is_named() -> None:
    image = torch.randn(1, 3, 6, 7)
    with pytest.raises(ValueError, match=r"^wrong \(Summed\): expected on a volume of equal slices .* a difference of"):
        to_3d(Wrong(Summed()), "i3d", example=image)
    model = Wrong(nn.MaxPool2d(2, 1))
    volumes = to_3d(model, "i3d")
    with torch.no_grad():
        volumes.conv.weight.zero_()  # the proof is about code: weights are those of the 2D network
    check_volumes(model, volumes, image)
    volumes.wrong = nn.AvgPool3d(2, 1)
    with pytest.raises(ValueError, match=r"^wrong \(AvgPool3d\): expected on a volume of equal slices"):
        check_volumes(model, volumes, image)
    volumes.wrong = nn.MaxPool3d(1)
    with pytest.raises(ValueError, match=r"^wrong \(MaxPool3d\): expected slices of the sizes \(1, 4, 3, 4\)"):
        check_volumes(model, volumes, image)
    del volumes.last
    with pytest.raises((ValueError, AttributeError), match="last"):
        check_volumes(model, volumes, image)
    with pytest.raises(ValueError, match=r"image: expected a tensor \(B, C, H, W\), got \(3, 6, 7\)"):
        check_volumes(model, volumes, image[0])


class Attention(nn.Module):
    """Divides by a sum and an epsilon, beside which the sum over a volume is larger."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, input: Tensor) -> Tensor:
        total = input.square().sum((2, 3), keepdim=True)
        return input * total / (total + self.epsilon * 42 * input.square().mean())


def test_small_differences_of_many_modules_do_not_add_up_and_one_that_is_larger_is_found() -> None:
    parts = [part for _ in range(10) for part in (nn.Conv2d(3, 3, 1), Attention(5e-5))]
    for part in parts[::2]:
        nn.init.orthogonal_(part.weight)
    model, image = nn.Sequential(*parts), torch.randn(1, 3, 6, 7)
    to_3d(model, "center", example=image)
    model[5].epsilon = 1e-3
    with pytest.raises(ValueError, match=r"^5 \(Attention\): expected on a volume .* a difference of"):
        to_3d(model, "center", example=image)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/googlenet",
        "torchvision/shufflenet_v2_x0_5",
        "timm/convnextv2_atto",
        "timm/skresnet18",
        "monai/unet",
    ],
)
def test_networks_of_the_zoo_are_proven(name: str) -> None:
    model = ZOO[name].build()
    enliven(model, torch.randn(2, *ZOO[name].input))
    to_3d(model, "i3d", example=torch.randn(1, *ZOO[name].input))
