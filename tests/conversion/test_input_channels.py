"""adapt_input_channels: the same output for replicated channels, from first convolutions of every kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import ZOO, enliven, images_for, library
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from crossd_ops import CrossDConv2d, adapt_input_channels, to_crossd
from crossd_ops.layers.conv3d import CrossDConv3d


def timm_layer(name: str) -> nn.Module:
    module: nn.Module = getattr(library("timm").layers, name)(3, 6, kernel_size=3, stride=2)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


FIRST: dict[str, Callable[[], nn.Module]] = {
    "Conv1d": lambda: nn.Conv1d(3, 6, 3),
    "Conv2d": lambda: nn.Conv2d(3, 6, 3, bias=False),
    "Conv3d": lambda: nn.Conv3d(3, 6, 3, stride=2),
    "CrossDConv2d": lambda: CrossDConv2d(3, 6, 3),
    "CrossDConv2d, 1x1": lambda: CrossDConv2d(3, 6, 1),
    "CrossDConv3d": lambda: CrossDConv3d(3, 6, 3),
    "Conv2dSame": lambda: timm_layer("Conv2dSame"),
    "ScaledStdConv2d": lambda: timm_layer("ScaledStdConv2d"),
    "ScaledStdConv2dSame": lambda: timm_layer("ScaledStdConv2dSame"),
    "Conv2dSame, converted": lambda: to_crossd(timm_layer("Conv2dSame")),
    "StdConv2d, converted": lambda: to_crossd(timm_layer("StdConv2d")),
    "StdConv2dSame, converted": lambda: to_crossd(timm_layer("StdConv2dSame"), init="random"),
    "ScaledStdConv2d, converted": lambda: to_crossd(timm_layer("ScaledStdConv2d")),
}


def grey(channels: int, axes: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 1, *(9, 8, 7)[:axes], dtype=torch.float64).expand(-1, channels, *(-1,) * axes)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("kind", FIRST)
def test_grey_images_keep_their_output(kind: str, channels: int) -> None:
    model = nn.Sequential(FIRST[kind](), nn.ReLU()).double().eval()
    before = copy.deepcopy(model.state_dict())
    axes = {"Conv1d": 1, "Conv3d": 3, "CrossDConv3d": 3}.get(kind, 2)
    expected = model(grey(3, axes))
    adapted: Any = adapt_input_channels(model, channels)
    assert adapted[0].in_channels == channels
    torch.testing.assert_close(adapted(grey(channels, axes)), expected, rtol=1e-9, atol=1e-9)
    back = adapt_input_channels(adapted, 3)
    torch.testing.assert_close(back(grey(3, axes)), expected, rtol=1e-9, atol=1e-9)
    if channels % 3 == 0 and "Std" not in kind:
        torch.testing.assert_close(back.state_dict(), before)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_weights() -> None:
    convolution = nn.Conv2d(3, 2, 3)
    weight = convolution.weight
    one, two, four = (adapt_input_channels(convolution, channels).weight for channels in (1, 2, 4))
    torch.testing.assert_close(one, weight.sum(1, keepdim=True))
    torch.testing.assert_close(two, torch.stack([weight[:, 0] + weight[:, 2], weight[:, 1]], 1))
    torch.testing.assert_close(four, torch.stack([weight[:, 0] / 2, weight[:, 1], weight[:, 2], weight[:, 0] / 2], 1))


def test_the_head_predicts_the_same_shift() -> None:
    layer = CrossDConv2d(3, 4, 3).double().eval()
    adapted: Any = adapt_input_channels(layer, 1)
    torch.testing.assert_close(adapted.predict_shift(grey(1, 2)), layer.predict_shift(grey(3, 2)))
    assert layer.predict_shift(grey(3, 2)).sub(1).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_rounded_once(dtype: torch.dtype) -> None:
    convolution = nn.Conv2d(48, 4, 3, dtype=dtype).requires_grad_(False)
    adapted: Any = adapt_input_channels(convolution, 1)
    torch.testing.assert_close(
        adapted.weight, convolution.weight.float().sum(1, keepdim=True).to(dtype), rtol=0, atol=0
    )
    assert not adapted.weight.requires_grad
    assert adapted.bias.dtype is dtype


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/tf_efficientnet_b0", "timm/nf_regnet_b0"])
@pytest.mark.parametrize("crossd", [False, True], ids=["plain", "crossd"])
def test_networks(name: str, crossd: bool) -> None:
    model = ZOO[name].build()
    enliven(model, images_for(ZOO[name], 8))
    model = (to_crossd(model) if crossd else model).eval().double()
    images = images_for(ZOO[name], 2)[:, :1].double()
    with torch.no_grad():
        expected = model(images.expand(-1, 3, -1, -1))
        result = adapt_input_channels(model, 1)(images)
    assert (result - expected).abs().max() < 1e-8 * expected.abs().max()


def test_several_convolutions_that_see_the_input() -> None:
    model = ZOO["monai/unet"].build().eval()
    names = ["model.0.conv.unit0.conv", "model.0.residual"]
    adapted = adapt_input_channels(model, 3, names=names)
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(adapted(images.expand(-1, 3, -1, -1)), model(images))
    assert adapt_input_channels(model, 3, names="model.0.res*").model[0].residual.in_channels == 3
    with pytest.raises(RuntimeError, match="to have 1 channels, but got 3"):
        adapt_input_channels(model, 3)(images.expand(-1, 3, -1, -1))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    return model


REFUSED: list[tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str]] = [
    (lambda: nn.Conv2d(3, 4, 3), {"channels": 0}, ValueError, "^channels: expected a positive int, got 0"),
    (lambda: nn.Conv2d(3, 4, 3), {"channels": True}, ValueError, "^channels: expected a positive int, got True"),
    (lambda: nn.Linear(3, 4), {}, ValueError, "^model: expected a convolution, got none"),
    (lambda: nn.Conv2d(3, 3, 3, groups=3), {}, ValueError, "^model: expected groups=1, got 3"),
    (lambda: nn.LazyConv2d(3, 3), {}, TypeError, "^model: expected a weight, got a lazy LazyConv2d"),
    (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), {}, ValueError, "^model: expected a weight that is a"),
    (
        lambda: timm_layer("StdConv2d"),
        {},
        ValueError,
        "^model: expected a standardised weight with a gain, got StdConv2d",
    ),
    (tied, {}, ValueError, r"^1\.weight: expected a parameter of this module alone"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), {"names": "stem"}, ValueError, r"^names: expected .* got \['stem'\]"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
        {"names": "*"},
        ValueError,
        r"^names: expected convolutions with the same in_channels, got \[3, 4\]",
    ),
]


@pytest.mark.parametrize("build, arguments, error, text", REFUSED, ids=[text for *_, text in REFUSED])
def test_refused(build: Callable[[], nn.Module], arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        adapt_input_channels(build(), **{"channels": 1, **arguments})


def test_code_that_reads_three_channels_is_refused() -> None:
    model = library("torchvision").models.inception_v3(
        weights=None, init_weights=False, aux_logits=False, transform_input=True
    )
    with pytest.raises(ValueError, match=r"^model\.transform_input: expected False"):
        adapt_input_channels(model, 1)
