"""ACSConv3d: against three explicit convolutions, and against one convolution with kernels that are 0 off a plane."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd_ops import ACSConv3d


def test_three_explicit_convolutions() -> None:
    module = ACSConv3d(4, 8, 3, stride=(1, 2, 2), padding=1)
    input = torch.randn(2, 4, 6, 7, 8)
    weight, bias, stride = module.weight, module.bias, (1, 2, 2)
    axial = F.conv3d(input, weight[:3, :, None], bias[:3], stride, (0, 1, 1))
    coronal = F.conv3d(input, weight[3:6, :, :, None], bias[3:6], stride, (1, 0, 1))
    sagittal = F.conv3d(input, weight[6:, :, :, :, None], bias[6:], stride, (1, 1, 0))
    torch.testing.assert_close(module(input), torch.cat([axial, coronal, sagittal], dim=1))


def planes(module: ACSConv3d) -> list[int]:
    """The axis that each output channel's kernel has no extent along, counted from the definition."""

    def thirds(count: int) -> list[int]:
        return [plane for plane in range(3) for _ in range(count // 3 + (plane < count % 3))]

    per_group = module.out_channels // module.groups
    if module.groups >= 3:
        return [plane for plane in thirds(module.groups) for _ in range(per_group)]
    return thirds(per_group) * module.groups


def as_one_convolution(module: ACSConv3d, input: Tensor) -> Tensor:
    size, axes = module.kernel_size, planes(module)
    kernel = torch.zeros(module.out_channels, module.in_channels // module.groups, size, size, size, dtype=input.dtype)
    for channel, plane in enumerate(axes):
        kernel[channel].select(1 + plane, size // 2).copy_(module.weight[channel].detach())
    plain = nn.Conv3d(
        module.in_channels, module.out_channels, size, module.stride, module.padding, module.dilation, module.groups,
        module.bias is not None, module.padding_mode, dtype=input.dtype,
    )  # fmt: skip
    return plain._conv_forward(input, kernel, module.bias)


@pytest.mark.parametrize(
    "channels, arguments",
    [
        ((4, 7), {"kernel_size": 3, "padding": 1, "bias": False}),
        ((4, 7), {"kernel_size": 3}),
        ((4, 8), {"kernel_size": 5, "padding": 1, "stride": 2}),
        ((4, 8), {"kernel_size": 3, "padding": 3, "stride": (1, 2, 3)}),
        ((4, 8), {"kernel_size": 4, "padding": 1, "stride": 2}),
        ((4, 2), {"kernel_size": 2}),
        ((4, 8), {"kernel_size": 3, "padding": 2, "dilation": 2}),
        ((4, 8), {"kernel_size": 3, "padding": 1, "groups": 2}),
        ((8, 16), {"kernel_size": 3, "padding": 1, "groups": 4}),
        ((7, 7), {"kernel_size": 5, "padding": 2, "groups": 7}),
        ((4, 6), {"kernel_size": 1}),
        *(((4, 6), {"kernel_size": 3, "padding": 2, "padding_mode": mode}) for mode in ("reflect", "circular")),
    ],
    ids=str,
)
def test_every_argument_is_honoured(channels: tuple[int, int], arguments: dict) -> None:
    module = ACSConv3d(*channels, **arguments, dtype=torch.float64)
    input = torch.randn(2, channels[0], 9, 8, 7, dtype=torch.float64)
    torch.testing.assert_close(module(input), as_one_convolution(module, input))


def test_weight_and_representation() -> None:
    module = ACSConv3d(4, 8, 3, padding=1, groups=2)
    plain = nn.Conv2d(4, 8, 3, groups=2)
    module.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(module.weight, plain.weight)
    assert module.extra_repr() == "4, 8, kernel_size=3, stride=(1, 1, 1), padding=1, groups=2"
    torch.manual_seed(0)
    module.reset_parameters()
    torch.manual_seed(0)
    plain.reset_parameters()
    assert torch.equal(module.weight, plain.weight) and torch.equal(module.bias, plain.bias)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"kernel_size": (3, 3)}, r"kernel_size: expected one int, at least 1, got \(3, 3\)"),
        ({"padding": -1}, "padding: expected one int, at least 0, got -1"),
        ({"padding": "same"}, "padding: expected one int, at least 0, got 'same'"),
        ({"groups": 3}, "in_channels: expected a multiple of 3 groups, got 4"),
        ({"padding_mode": "wrap"}, "padding_mode: expected one of"),
        ({"stride": (1, 2)}, "stride: expected one int or three"),
    ],
)
def test_wrong_arguments(wrong: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ACSConv3d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **wrong})


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"input: expected \(B, 4, D, H, W\), got \(1, 3, 5, 5, 5\)"):
        ACSConv3d(4, 8, 3)(torch.randn(1, 3, 5, 5, 5))
