"""ResNet-18, ResNet-50 and a UNet of any convolution: `torch.nn.Conv2d`, or `crossd_ops.CrossDConv2d` in its place.

The names of the ResNets' modules, and for width 64 their sizes, are torchvision's, so published checkpoints fit. Every
convolution comes from the factory, those of kernel size 1 too, as in the published Cross-D networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import crossd_ops

# (in_channels, out_channels, kernel_size, *, stride, padding, bias) -> the module
ConvolutionFactory = Callable[..., nn.Module]


def plain_convolution(in_channels: int, out_channels: int, kernel_size: int, **arguments: Any) -> nn.Conv2d:
    """nn.Conv2d with the initial weights of torchvision's ResNet, which are also those of CrossDConv2d."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, **arguments)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


CONVOLUTIONS: dict[str, ConvolutionFactory] = {"crossd": crossd_ops.CrossDConv2d, "plain": plain_convolution}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, conv: ConvolutionFactory) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride, conv)

    def forward(self, input: Tensor) -> Tensor:
        """relu(shortcut + residual)."""
        residual = self.relu(self.bn1(self.conv1(input)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + (input if self.downsample is None else self.downsample(input)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 convolution carries the stride."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, conv: ConvolutionFactory) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv(in_channels, width, 1, stride=1, padding=0, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1, stride=1, padding=0, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride, conv)

    def forward(self, input: Tensor) -> Tensor:
        """relu(shortcut + residual)."""
        residual = self.relu(self.bn1(self.conv1(input)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + (input if self.downsample is None else self.downsample(input)))


def _shortcut(in_channels: int, out_channels: int, stride: int, conv: ConvolutionFactory) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        conv(in_channels, out_channels, 1, stride=stride, padding=0, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(nn.Module):
    """Input (B, in_channels, H, W) -> scores (B, classes)."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        conv: ConvolutionFactory,
        *,
        classes: int,
        in_channels: int,
        width: int,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for number, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if position == 0 and number > 0 else 1
                blocks.append(block(channels, width << number, stride, conv))
                channels = (width << number) * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return self.fc(self.avgpool(features).flatten(1))


class DoubleConvolution(nn.Sequential):
    """Twice a 3x3 convolution, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, conv: ConvolutionFactory) -> None:
        super().__init__(
            conv(in_channels, out_channels, 3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, 3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Input (B, in_channels, H, W), H and W multiples of 16 -> scores (B, classes, H, W)."""

    def __init__(self, conv: ConvolutionFactory, *, classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(
            DoubleConvolution(before, after, conv)
            for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            DoubleConvolution(below + beside, beside, conv)
            for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.scores = conv(width, classes, 1, stride=1, padding=0, bias=True)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes at every pixel."""
        features, kept = input, []
        for block in self.down[:-1]:
            kept.append(block(features))
            features = self.pool(kept[-1])
        features = self.down[-1](features)
        for block in self.up:
            features = block(torch.cat([kept.pop(), self.enlarge(features)], dim=1))
        return self.scores(features)


def use_channels_last(model: nn.Module) -> None:
    """`model.to(memory_format=torch.channels_last)`, which refuses a model with 5D weights, for the other weights."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


MODELS = ("resnet18", "resnet50", "unet")
_WIDTHS = {"resnet18": 64, "resnet50": 64, "unet": 32}


def build_model(
    name: str, conv: ConvolutionFactory, *, classes: int, in_channels: int = 3, width: int | None = None
) -> nn.Module:
    """One of MODELS; `width` is the number of channels of its first layer (default: 64, for the UNet 32)."""
    if name not in MODELS:
        raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {name!r}")
    sizes = {"classes": classes, "in_channels": in_channels, "width": width or _WIDTHS[name]}
    if name == "unet":
        return UNet(conv, **sizes)
    if name == "resnet18":
        return ResNet(BasicBlock, (2, 2, 2, 2), conv, **sizes)
    return ResNet(Bottleneck, (3, 4, 6, 3), conv, **sizes)
