"""to_3d: layers against their 2D ones slice by slice, the depth axis, and layers that are refused."""

from __future__ import annotations

import concurrent.futures

import pytest
import torch
import torch.nn.functional as F
from model_zoo import library
from torch import Tensor, nn
from volumes import constant

from crossd_ops import CrossDConv2d, to_2d, to_3d, to_crossd
from crossd_ops.conversion import CrossDConv2dSame
from crossd_ops.conversion.layers_3d import AvgPool3d

ONE_SLICE = {"kernel": 1, "padding": 0, "stride": 1}
FLAT_LAYERS = [
    (nn.MaxPool2d(3, 2, 1), ONE_SLICE, nn.MaxPool3d),
    (nn.MaxPool2d((2, 3), dilation=2, ceil_mode=True), ONE_SLICE | {"dilation": 1}, nn.MaxPool3d),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), ONE_SLICE, AvgPool3d),
    (nn.AvgPool2d(2, divisor_override=3), {}, AvgPool3d),
    (nn.LPPool2d(2, 2), {"kernel": 1, "stride": 1}, nn.LPPool3d),
    (nn.AdaptiveAvgPool2d((2, None)), {"size": 6}, nn.AdaptiveAvgPool3d),
    (nn.AdaptiveMaxPool2d(3), {"size": 6}, nn.AdaptiveMaxPool3d),
    (nn.AdaptiveAvgPool2d((3, 2)), {}, nn.AdaptiveAvgPool3d),
    (nn.BatchNorm2d(4), {}, nn.BatchNorm3d),
    (nn.InstanceNorm2d(4, affine=True), {}, nn.InstanceNorm3d),
    (nn.GroupNorm(2, 4), {}, nn.GroupNorm),
    (nn.Dropout2d(), {}, nn.Dropout3d),
    (nn.ZeroPad2d((1, 2, 3, 0)), {"padding": 0}, nn.ZeroPad3d),
    (nn.ConstantPad2d(1, 0.5), {"padding": 0}, nn.ConstantPad3d),
    (nn.ReflectionPad2d((1, 0, 2, 1)), {}, nn.ReflectionPad3d),
    (nn.ReplicationPad2d(2), {"padding": 1}, nn.ReplicationPad3d),
    (nn.CircularPad2d(1), {}, nn.CircularPad3d),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), {}, nn.Upsample),
    (nn.Upsample(size=(9, 7), mode="bilinear"), {"size": 4}, nn.Upsample),
    (nn.Upsample(scale_factor=(2.0, 3.0)), {"scale": 1}, nn.Upsample),
    (nn.UpsamplingBilinear2d(scale_factor=2), {}, nn.Upsample),
    (nn.UpsamplingNearest2d(size=8), {}, nn.Upsample),
]


@pytest.mark.parametrize("layer, request_of_depth, kind", FLAT_LAYERS, ids=lambda value: getattr(value, "__name__", ""))
def test_layers(layer: nn.Module, request_of_depth: dict, kind: type) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    if isinstance(layer, nn.BatchNorm2d):
        model(torch.randn(4, 3, 6, 6))
    model.eval()
    input = torch.randn(2, 3, 7, 8)
    deep = to_3d(model, "i3d", depth={"1": request_of_depth} if request_of_depth else None, example=input)
    assert type(deep[1]) is kind and type(model[1]) is type(layer) and deep[1] is not layer
    output, expected = deep(constant(input, 6)), model(input)
    assert output.shape == (*expected.shape[:2], output.shape[2], *expected.shape[2:])
    for number in range(output.shape[2]):
        torch.testing.assert_close(output[:, :, number], expected)
    torch.testing.assert_close(to_2d(deep, "i3d")(input), expected)


@pytest.mark.parametrize("pool", ["fast", "fastmax", "fastavgmax", "fastcatavgmax", "avg", "max", "avgmax"])
def test_layers_of_timm(pool: str) -> None:
    layers = library("timm").layers
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        layers.LayerNorm2d(4),
        layers.BatchNormAct2d(4, act_layer=nn.SiLU),
        layers.SelectAdaptivePool2d(pool_type=pool, flatten=True),
    )
    for part in (model[1], model[2]):
        nn.init.normal_(part.weight)
    model(torch.randn(4, 3, 6, 6))
    model.eval()
    input = torch.randn(2, 3, 7, 8)
    deep = to_3d(model, "i3d", example=input)
    assert [type(part).__name__ for part in deep[1:3]] == ["LayerNorm3d", "BatchNormAct3d"]
    torch.testing.assert_close(deep(constant(input, 5)), model(input))
    back = to_2d(deep, "i3d")
    assert [type(part) for part in back.modules()] == [type(part) for part in model.modules()]
    torch.testing.assert_close(back(input), model(input))


def test_the_depth_is_like_the_height() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), (2, 1), (1, 2), (2, 1)), nn.MaxPool2d((3, 2), 2, (1, 0)), nn.AvgPool2d(2),
        nn.ZeroPad2d((1, 2, 3, 4)), nn.Upsample(scale_factor=(3, 2)), nn.AdaptiveAvgPool2d((7, 5)),
        CrossDConv2d(4, 4, (1, 5), (1, 2), (0, 2)), nn.ConvTranspose2d(4, 4, (3, 2), (2, 1), (1, 0), (1, 0)),
    )  # fmt: skip
    deep = to_3d(model, example=torch.randn(1, 3, 24, 12))
    assert (deep[0].kernel_size, deep[0].stride) == ((3, 3, 5), (2, 2, 1))
    assert (deep[0].padding, deep[0].dilation) == ((1, 1, 2), (2, 2, 1))
    assert (deep[1].kernel_size, deep[1].stride, deep[1].padding) == ((3, 3, 2), 2, (1, 1, 0))
    assert (deep[2].kernel_size, deep[2].stride) == (2, 2)
    assert deep[3].padding == (1, 2, 3, 4, 3, 4)
    assert deep[4].scale_factor == (3, 3, 2)
    assert deep[5].output_size == (1, 7, 5)
    assert (deep[6].kernel_size, deep[6].stride, deep[6].padding) == ((5, 1, 5), (1, 1, 2), (2, 0, 2))
    assert (deep[7].stride, deep[7].output_padding) == ((2, 2, 1), (1, 1, 0))


class UNet(nn.Module):
    """One level of a U-Net for images that are wider than high."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, (1, 3), stride=(1, 2), padding=(0, 1))
        self.up = nn.ConvTranspose2d(4, 1, (1, 2), stride=(1, 2))

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([input, self.up(self.down(input))], 1)


@pytest.mark.parametrize("recipe", ["published", "crossd"])
def test_unequal_strides_go_with_the_height_in_every_layer(recipe: str) -> None:
    for model, name in ((UNet(), "i3d"), (to_crossd(UNet()), recipe)):
        deep = to_3d(model, name, example=torch.randn(1, 1, 6, 8))
        assert deep(torch.randn(1, 1, 5, 6, 8)).shape == (1, 2, 5, 6, 8)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d([2, 2], [2, 1]),
        nn.MaxPool2d([2]),
        nn.MaxPool2d([2, 3]),
        nn.AdaptiveAvgPool2d([1, 1]),
        nn.Upsample(size=[5, 6]),
    ],
    ids=str,
)
def test_sizes_that_are_lists(layer: nn.Module) -> None:
    model, input = nn.Sequential(nn.Conv2d(3, 4, 1), layer), torch.randn(2, 3, 6, 6)
    deep = to_3d(model, "i3d", example=input)
    expected = model(input)
    for part in deep(constant(input, 4)).unbind(2):
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(to_2d(deep, "i3d")(input), expected)


@pytest.mark.parametrize("layer", [nn.AvgPool3d([2, 2, 2], [2, 2, 2]), nn.MaxPool3d([1, 2, 2])], ids=str)
def test_sizes_of_volumes_that_are_lists(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 1), layer)
    assert to_2d(model, "i3d")(torch.randn(2, 3, 6, 6)).shape == (2, 4, 3, 3)


def stages(convolution: type[nn.Module]) -> nn.Sequential:
    names = ("conv1", "pool", "conv2", "acs")
    parts = (convolution(3, 4, 5, 2, 2), nn.MaxPool2d(3, 2, 1), convolution(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3))
    model = nn.Sequential()
    for name, part in zip(names, parts, strict=True):
        model.add_module(name, part)
    return model


def test_anisotropic_voxels() -> None:
    depth = {"conv1": {"kernel": 1, "stride": 1}, "pool": {"kernel": 1, "stride": 1}, "conv?": {"kernel": 2}}
    image = torch.randn(1, 3, 20, 20)
    for convolution, recipe in ((nn.Conv2d, "i3d"), (CrossDConv2d, "published")):
        model = stages(convolution)
        deep = to_3d(model, {"acs": "acs", "*": recipe}, depth=depth | {"acs": {"stride": 2}}, example=image)
        assert (deep.conv1.kernel_size, deep.conv1.stride, deep.conv1.padding) == ((1, 5, 5), (1, 2, 2), (0, 2, 2))
        assert (deep.pool.kernel_size, deep.pool.stride, deep.pool.padding) == ((1, 3, 3), (1, 2, 2), (0, 1, 1))
        assert (deep.conv2.kernel_size, deep.conv2.padding) == ((2, 3, 3), (0, 1, 1))
        assert deep.acs.stride == (2, 1, 1)
        if recipe == "i3d":
            torch.testing.assert_close(deep.conv2.weight.sum(2), model.conv2.weight)
        else:
            assert torch.equal(deep.conv1.weight, model.conv1.weights_3d[:, :, 2:3])
            assert torch.equal(deep.conv2.weight, model.conv2.weights_3d[:, :, :2])
        assert deep(torch.randn(1, 3, 9, 20, 20)).shape == (1, 4, 3, 3, 3)


@pytest.mark.parametrize(
    "depth, text",
    [
        ({"stem*": {"kernel": 1}}, r"depth: expected patterns that match a layer with a depth, got 'stem\*'"),
        ({"pool": {"pad": 1}}, r"depth\['pool'\]: expected numbers for kernel, .*, got pad=1"),
        ({"pool": {"stride": 0}}, "got stride=0"),
        ({"pool": {"size": 1}}, r"expected kernel, stride, padding, dilation for pool \(MaxPool2d\), got size"),
        ({"conv1": {"kernel": 7}}, "depth: expected a kernel up to 5 for conv1, got 7"),
    ],
)
def test_wrong_depth(depth: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        to_3d(stages(CrossDConv2d), depth=depth)


def test_timms_padding_at_a_stride() -> None:
    layer = CrossDConv2dSame(3, 4, 3, stride=2)
    deep = to_3d(layer, depth={"*": {"kernel": 1}}, example=torch.randn(1, 3, 7, 8))
    layer.fix_shift(torch.zeros(3))
    for size in (7, 8):
        input = torch.randn(2, 3, size, size)
        for number in (0, 2):
            torch.testing.assert_close(deep(constant(input, 5))[:, :, number], layer(input))
    assert to_3d(layer)(torch.randn(1, 3, 7, 8, 9)).shape == (1, 4, 4, 4, 5)
    with pytest.raises(ValueError, match="expected a stride of 1 with padding='same' for CrossDConv3d"):
        to_3d(layer, "crossd")


class Shuffling(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, 2)


@torch.jit.script
def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def indirectly(input: Tensor) -> Tensor:
    return pooled(input)


class Scripting(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return indirectly(input)


class Hiding(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return input.mean((2, 3))


class Threaded(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return pool.submit(input.mean, (2, 3)).result()


class OtherConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


REFUSED = [
    (nn.PixelShuffle(2), TypeError, "1: expected a layer with a known 3D twin, got PixelShuffle"),
    (nn.Fold(4, 2), TypeError, "1: expected a layer with a known 3D twin, got Fold"),
    (nn.Upsample(scale_factor=2, mode="bicubic"), TypeError, "1: expected nearest or bilinear upsampling, got bicubic"),
    (Shuffling(), TypeError, "1: expected code that works on volumes too, got Shuffling, which calls pixel_shuffle"),
    (Scripting(), TypeError, "1: expected functions of Python code, got Scripting, which calls pooled of TorchScript"),
    (Hiding(), TypeError, "1: expected calls that can be seen, got Hiding, which calls DisableTorchFunctionSubclass"),
    (Threaded(), TypeError, "1: expected calls that can be seen, got Threaded, which calls ThreadPoolExecutor"),
    (torch.jit.script(nn.Softplus()), TypeError, "1: expected a module of Python code, got RecursiveScriptModule"),
    (OtherConv2d(4, 4, 3), TypeError, "1: expected Conv2d or a subclass with its forward, got OtherConv2d"),
    (nn.LazyConv2d(4, 3), TypeError, "1: expected a weight, got a lazy LazyConv2d"),
    (nn.Conv3d(4, 4, 3), TypeError, "1: expected layers of 2D networks, got Conv3d"),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), ValueError, "1: expected a weight that is a parameter"),
    (CrossDConv2d(4, 4, 3), ValueError, "expected one of published, .*, crossd for 1, got 'acs'"),
    (nn.Conv2d(4, 4, (1, 3)), ValueError, r"1: expected a square kernel for ACS, .*got \(1, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize("layer, error, text", REFUSED, ids=lambda value: type(value).__name__)
def test_refusals_name_the_layer_and_the_reason(layer: nn.Module, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        to_3d(nn.Sequential(nn.Conv2d(4, 4, 3), layer), "acs")


def test_layers_that_no_recipe_can_stand_for_are_named() -> None:
    same = nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"))
    with pytest.raises(ValueError, match=r"depth: expected no padding beside padding='same', got 1"):
        to_3d(same, "i3d", depth={"0": {"padding": 1}})
    with pytest.raises(ValueError, match=r"0: expected padding='same' with stride 1 and an odd kernel for ACS"):
        to_3d(nn.Sequential(nn.Conv2d(2, 3, 4, padding="same")), "acs")


class Pools(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool2d(input, 2)


def test_a_forward_that_is_another_method_of_the_module_is_made_for_volumes() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), Pools())
    model[1].forward = model[1].forward
    deep = to_3d(model, "i3d", example=torch.randn(1, 2, 6, 6))
    assert deep[1].forward.__self__ is deep[1]
    assert deep(torch.randn(1, 2, 6, 6, 6)).shape == (1, 3, 2, 2, 2)
    back = to_2d(deep, "i3d")
    assert type(back[1]) is Pools and back[1].forward.__self__ is back[1]
    assert back(torch.randn(1, 2, 6, 6)).shape == (1, 3, 2, 2)
