"""to_crossd: every kind of convolution, the start that it gives them, and the choice of layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossd_ops
from crossd_ops import CrossDConv2d, to_crossd

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "groups": 4, "out_channels": 4},
    {"kernel_size": (1, 7), "padding": (0, 3)},
    {"kernel_size": (7, 1), "padding": (3, 0), "stride": (2, 1)},
    {"kernel_size": (5, 3), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 5, "padding": "valid"},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 4, "padding": 1},
    {"kernel_size": (4, 3), "padding": "same"},
    {"kernel_size": 14, "stride": 7},
    {"kernel_size": 11, "stride": 4, "padding": 2},
    {"kernel_size": 15, "padding": 7},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": (3, 4), "padding": (2, 1), "padding_mode": "circular"},
    {"kernel_size": 4, "padding": "same", "padding_mode": "replicate"},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("depth_fill", ["repeat", "zeros"])
@pytest.mark.parametrize("rotation", ["linear", "exact"])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_same_output_from_every_convolution(options: dict[str, Any], rotation: Any, depth_fill: Any) -> None:
    convolution = nn.Conv2d(**{"in_channels": 4, "out_channels": 6, **options}).double()
    converted = to_crossd(convolution, rotation=rotation, depth_fill=depth_fill)
    images = torch.randn(3, 4, 21, 22, dtype=torch.float64)
    assert isinstance(converted, CrossDConv2d)
    assert converted.rotation == rotation
    torch.testing.assert_close(converted(images), convolution(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [3, 4])
def test_types(dtype: torch.dtype, size: int) -> None:
    convolution = nn.Conv2d(4, 6, size, dtype=dtype)
    converted = to_crossd(convolution)
    images = torch.randn(2, 4, 9, 9, dtype=dtype)
    assert {parameter.dtype for parameter in converted.parameters()} == {dtype}
    # The 2D weight is the same bit for bit; what differs is the order in which the convolution sums.
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(converted(images), convolution(images), rtol=tolerance, atol=tolerance)


def test_the_kernel_at_angle_zero_is_the_weight_itself() -> None:
    shift = torch.ones(1, 3)
    for size in range(2, 16):
        convolution = nn.Conv2d(2, 3, size)
        for depth_fill in ("repeat", "zeros"):
            layer: Any = to_crossd(convolution, depth_fill=depth_fill)
            kernel = crossd_ops.fourier_shift_slice(layer.weights_3d, shift)[0]
            torch.testing.assert_close(kernel, convolution.weight, rtol=0, atol=1e-6)


def test_depth_fill() -> None:
    convolution = nn.Conv2d(2, 3, 3)
    repeated: Any = to_crossd(convolution)
    zeros: Any = to_crossd(convolution, depth_fill="zeros")
    shift = torch.tensor([[0.3, 1.0, 1.0]])  # a shift along the depth alone changes nothing where all slices are equal
    torch.testing.assert_close(crossd_ops.fourier_shift_slice(repeated.weights_3d, shift)[0], convolution.weight)
    assert zeros.weights_3d[:, :, 0].any()
    assert not zeros.weights_3d[:, :, 1:].any()


def test_the_head_starts_at_angle_zero_and_trains_on() -> None:
    layer: Any = to_crossd(nn.Conv2d(4, 6, 3, padding=1))
    images = torch.randn(5, 4, 8, 8)
    axis, angle = layer.predict_rotation(images)
    assert not angle.any()
    torch.testing.assert_close(axis.norm(dim=1), torch.ones(5))
    assert (axis.cross(torch.ones_like(axis), dim=1).norm(dim=1) > 1e-2).all()  # along (1, 1, 1) no angle would count
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for step in range(2):
        optimizer.zero_grad()
        layer(images).square().sum().backward()
        gradient = layer.rotation_params[-1].weight.grad
        assert gradient[3].any()
        assert bool(gradient[:3].any()) == (step > 0)
        optimizer.step()
    assert layer.predict_rotation(images)[1].all()


def test_random_start_is_the_published_one() -> None:
    convolution = nn.Conv2d(16, 64, 3)
    torch.manual_seed(3)
    layer: Any = to_crossd(convolution, init="random")
    torch.manual_seed(3)
    published = CrossDConv2d(16, 64, 3)
    torch.testing.assert_close(layer.state_dict(), published.state_dict(), rtol=0, atol=0)


def test_the_input_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    before = copy.deepcopy(model.state_dict())
    converted: Any = to_crossd(model)
    torch.nn.init.zeros_(converted[2].weight)
    converted(torch.randn(2, 3, 8, 8))
    assert [type(module) for module in model] == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Shares(nn.Module):
    """One convolution under two names and in a list, one normalisation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.first
        self.listed = [self.first]
        self.norms = nn.ModuleList([nn.BatchNorm2d(4)] * 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.listed[0](self.norms[1](self.again(self.norms[0](self.first(input)))))


def test_shared_modules_stay_shared() -> None:
    model = Shares().eval()
    converted: Any = to_crossd(model)
    assert converted.first is converted.again is converted.listed[0]
    assert isinstance(converted.first, CrossDConv2d)
    assert converted.norms[0] is converted.norms[1] is not model.norms[0]
    images = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(converted(images), model(images))
    assert isinstance(to_crossd(model, where="again").first, CrossDConv2d)


def test_flags_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False).eval()
    model[1].bias.requires_grad_(False)
    first, second, third = to_crossd(model)
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert [name for name, parameter in second.named_parameters() if not parameter.requires_grad] == ["bias"]
    assert all(parameter.requires_grad for parameter in third.parameters())
    assert [module.training for module in (first, first.rotation_params[1], second)] == [False, False, True]
    assert to_crossd(model.to("meta"))[0].weights_3d.is_meta


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    calls: list[nn.Module] = []
    model[0].register_forward_hook(lambda module, arguments, output: calls.append(module))
    model[0].register_forward_pre_hook(lambda module, arguments, options: calls.append(module), with_kwargs=True)
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: calls.append(module))
    converted: Any = to_crossd(model)
    converted(torch.randn(2, 3, 8, 8)).sum().backward()
    assert calls == [converted[0]] * 3
    model[0].register_load_state_dict_pre_hook(lambda *arguments: None)
    with pytest.raises(ValueError, match=r"^0: expected no hooks on the state dict"):
        to_crossd(model)


class OtherArguments(nn.Conv2d):
    """A subclass that only constructs in its own way."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3)


def four_layers() -> nn.Sequential:
    parts = {"stem": nn.Conv2d(3, 4, 3), "body": nn.Sequential(OtherArguments(4), nn.Conv2d(4, 4, 1)), "end": nn.ReLU()}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


@pytest.mark.parametrize(
    "where, expected",
    [
        (None, {"stem", "body.0"}),
        ("stem", {"stem"}),
        ("body.*", {"body.0"}),
        (["stem", "body.?"], {"stem", "body.0"}),
        (OtherArguments, {"body.0"}),
        ((nn.Conv2d,), {"stem", "body.0"}),
        (lambda name, module: module.in_channels == 3 and name == "stem", {"stem"}),
    ],
)
def test_where(where: Any, expected: set[str]) -> None:
    converted = to_crossd(four_layers(), where=where)
    assert {name for name, module in converted.named_modules() if isinstance(module, CrossDConv2d)} == expected


def test_pointwise() -> None:
    model = four_layers()
    converted = to_crossd(model, pointwise=True)
    assert sum(isinstance(module, CrossDConv2d) for module in converted.modules()) == 3
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(images), model(images))
    # The heads' own 1x1 convolutions are no layers of the network.
    with pytest.raises(ValueError, match="expected a convolution to convert, got none: of 0"):
        to_crossd(converted, pointwise=True)


def test_large_kernels_stay_plain_with_a_warning() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.warns(UserWarning, match=r"kernel sizes are above 15: 0 \(16, 16\)$"):
        converted: Any = to_crossd(model)
    assert type(converted[0]) is nn.Conv2d
    with pytest.raises(ValueError, match="1 chosen ones have kernel sizes above 15"):
        to_crossd(model, where="0")


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"init": "zeros"}, ValueError, "init: expected 'pretrained' or 'random', got 'zeros'"),
        ({"depth_fill": "ones"}, ValueError, "depth_fill: expected 'repeat' or 'zeros', got 'ones'"),
        ({"rotation": "none"}, ValueError, "rotation: expected 'linear' or 'exact', got 'none'"),
        ({"where": "steem"}, ValueError, "where: expected names or patterns .* got \\['steem'\\]"),
        ({"where": 3}, TypeError, "where: expected None, a predicate, types, or names, got 3"),
        ({"where": [3]}, TypeError, "where: expected names or patterns of names, got \\[3\\]"),
        ({"where": nn.Conv3d}, ValueError, "model: expected a convolution to convert, got none: of 3 nn.Conv2d"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        to_crossd(four_layers(), **arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript
def test_bad_models() -> None:
    with pytest.raises(TypeError, match=r"^model: expected a torch\.nn\.Module, got int"):
        to_crossd(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got none: of 0 nn\.Conv2d"):
        to_crossd(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="TorchScript"):
        to_crossd(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)))
