"""to_3d: whole networks against the 2D ones, their own code, and what a conversion leaves as it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from model_zoo import ZOO, enliven, output_of
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_2d, to_3d, to_crossd
from crossd_ops.conversion import check_volumes


class Network(nn.Module):
    """One convolution under two names, and 2D functions in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, input: Tensor) -> Tensor:
        features = self.norm(self.again(self.first(input)))
        features = F.interpolate(F.avg_pool2d(F.max_pool2d(features, 2), (2, 1)), scale_factor=2.0, mode="bilinear")
        scale = features.mean((2, 3), keepdim=True) + features.amax(dim=[-2, -1], keepdim=True)
        pooled = F.adaptive_avg_pool2d(features * scale, (1, 1)).flatten(1)
        return self.fc2(self.fc1(pooled) + features.mean([2, 3]))


def test_a_networks_own_calls_of_2d_functions() -> None:
    model = Network().eval()
    input = torch.randn(2, 4, 8, 8)
    deep = to_3d(model, "i3d", depth={"first": {"kernel": 1}}, example=input)
    torch.testing.assert_close(deep(constant(input, 8)), model(input))
    for twin in (copy.deepcopy(deep), pickle.loads(pickle.dumps(deep))):
        deep.fc2.bias.data += 1  # the twin has its own
        torch.testing.assert_close(twin(constant(input, 8)), model(input))
    centered = to_3d(model, "center", example=input)
    exported = torch.export.export(centered, (constant(input, 8),)).module()
    torch.testing.assert_close(exported(constant(input, 8)), centered(constant(input, 8)))
    assert not torch.overrides._is_torch_function_mode_enabled()


class Resizing(nn.Module):
    """Enlarges its output to a height and a width, by default those of its input, as DeepLab does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3)
        self.size: tuple[int, int] | None = None

    def forward(self, input: Tensor) -> Tensor:
        size = self.size or input.shape[-2:]
        return F.interpolate(self.convolution(input), size=size, mode="bilinear")


def test_a_size_without_a_depth() -> None:
    model = Resizing()
    deep = to_3d(model, "i3d", example=torch.randn(1, 4, 6, 7))
    assert deep(torch.randn(1, 4, 5, 6, 7)).shape == (1, 4, 5, 6, 7)
    model.size = (5, 5)
    with pytest.raises(ValueError, match="interpolate: expected a size with the depth"):
        to_3d(model, "i3d")(torch.randn(1, 4, 5, 5, 5))


def test_the_model_is_left_alone_and_what_is_shared_stays_shared() -> None:
    model = Network().double().train()
    model.first.weight.requires_grad_(False)
    model.norm.eval()
    model.norm.running_mean += 3
    calls: list[str] = []
    model.first.register_forward_hook(lambda *_: calls.append("hook"))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    deep = to_3d(model, "i3d", example=torch.ones(1, 4, 8, 8, dtype=torch.float64))
    calls.clear()  # of the proof, which runs the hooks of its copies
    assert torch.equal(torch.get_rng_state(), state)
    assert deep.first is deep.again and type(model.first) is nn.Conv2d and type(model.norm) is nn.BatchNorm2d
    assert "forward" not in vars(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not deep.first.weight.requires_grad and deep.first.bias.requires_grad
    assert deep.training and deep.first.training and not deep.norm.training
    assert deep.first.weight.dtype is torch.float64
    assert torch.equal(deep.norm.running_mean, model.norm.running_mean)
    deep(torch.randn(1, 4, 8, 8, 8, dtype=torch.float64)).sum().backward()
    assert calls == ["hook"] * 2 and model.norm.weight.grad is None


def test_the_classifier_is_kept_or_drawn_anew() -> None:
    model = Network()
    image = torch.randn(1, 4, 8, 8)
    assert torch.equal(to_3d(model, "i3d", example=image).fc2.weight, model.fc2.weight)
    anew = to_3d(model, "i3d", keep_classifier=False, example=image)
    assert torch.equal(anew.fc1.weight, model.fc1.weight) and not torch.equal(anew.fc2.weight, model.fc2.weight)
    with pytest.raises(ValueError, match=r"keep_classifier: expected True for a model without nn\.Linear"):
        to_3d(nn.Conv2d(3, 3, 3), "i3d", keep_classifier=False)


def one_slice(model: nn.Module) -> dict[str, dict[str, int]]:
    """Options with which a network looks at each slice of a volume on its own."""
    options: dict[str, dict[str, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            options[name] = {"kernel": 1, "stride": 1}
        elif type(module) in (nn.MaxPool2d, nn.AvgPool2d):
            options[name] = {"kernel": 1, "stride": 1, "padding": 0}
        elif isinstance(module, nn.Upsample):
            options[name] = {"scale": 1}
    return options


CONVERTED = [
    "torchvision/alexnet", "torchvision/densenet121", "torchvision/efficientnet_b0", "torchvision/googlenet",
    "torchvision/mnasnet0_5", "torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small",
    "torchvision/regnet_y_400mf", "torchvision/resnet18", "torchvision/squeezenet1_1", "timm/dla46_c", "timm/dpn48b",
    "timm/ghostnet_050", "timm/hrnet_w18_small", "timm/repvgg_a0", "timm/tf_efficientnet_b0", "timm/tf_mixnet_s",
    "monai/resnet18", "monai/unet", "torchvision/convnext_tiny", "torchvision/deeplabv3",
    "torchvision/shufflenet_v2_x0_5", "timm/skresnet18", "timm/fastvit_t8",
    "nnU-Net/ResidualEncoderUNet", "segmentation_models_pytorch/DeepLabV3Plus",
]  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
@torch.no_grad()
def test_networks_of_the_zoo_see_each_slice_as_the_2d_network_does(name: str) -> None:
    # In float32 fresh networks, which amplify rounding, hide what is wrong.
    model, input = ZOO[name].build().double(), torch.randn(2, *ZOO[name].input, dtype=torch.float64)
    enliven(model, input)
    model.eval()
    expected = output_of(model, input)
    deep = to_3d(model, "i3d", depth=one_slice(model))
    slices = 16 if "DeepLab" in name else 2  # which asks for whole strides
    check_volumes(model, deep, input[:1], slices=slices)
    output = output_of(deep, constant(input, slices))
    for part in output.unbind(2) if output.dim() == 5 else [output]:
        torch.testing.assert_close(part, expected)
    back = to_2d(deep, "i3d")
    assert [*back.state_dict()] == [*model.state_dict()]
    assert [type(module) for module in back.modules()] == [type(module) for module in model.modules()]
    torch.testing.assert_close(output_of(back, input), expected)


REFUSED_NETWORKS = {
    "torchvision/swin_t": r"features\.1\.0\.attn: expected code that works on volumes too, got ShiftedWindow",
    "timm/mobilevit_xxs": r"stages\.2\.1: expected code that works on volumes too, got MobileVitBlock, which",
    "timm/vit_tiny_r_s16_p8": "expected ",
}


@pytest.mark.parametrize("name", REFUSED_NETWORKS)
def test_networks_that_are_for_images_alone_are_refused_by_the_name_of_the_part(name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=REFUSED_NETWORKS[name]):
        to_3d(ZOO[name].build(), "i3d")(torch.randn(1, 3, 32, 32, 32))


@torch.no_grad()
def test_standardised_weights_come_along_as_they_are() -> None:
    model, input = ZOO["timm/nf_regnet_b0"].build().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    enliven(model, input)
    model.eval()
    deep = to_3d(model, "i3d", depth=one_slice(model), example=input[:1])
    torch.testing.assert_close(deep(constant(input, 2)), model(input))
    torch.testing.assert_close(to_2d(deep, "i3d")(input), model(input))
    crossd = to_crossd(model)
    assert torch.equal(to_3d(crossd, example=input[:1]).stem.conv.weight, crossd.stem.conv.weights_3d)
