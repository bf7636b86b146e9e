"""The two tiny networks of the transfer benchmark, written so that their forward does not know the number of axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models import CONVOLUTIONS, ConvolutionFactory

WIDTHS = (16, 32, 64)


def _block(in_channels: int, out_channels: int, conv: ConvolutionFactory, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class TinyClassifier(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, the mean over space, a linear layer: (B, C, ...) -> (B, K)."""

    def __init__(self, conv: ConvolutionFactory, *, classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.block1 = _block(in_channels, WIDTHS[0], conv, stride=2)
        self.block2 = _block(WIDTHS[0], WIDTHS[1], conv)
        self.block3 = _block(WIDTHS[1], WIDTHS[2], conv)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(WIDTHS[2], classes)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        features = self.block3(self.pool(self.block2(self.block1(input))))
        return self.classifier(features.flatten(2).mean(-1))


class TinyUNet(nn.Module):
    """A UNet of two levels, sizes multiples of 2: (B, C, ...) -> scores (B, K, ...) of the classes everywhere."""

    def __init__(self, conv: ConvolutionFactory, *, classes: int, in_channels: int = 1) -> None:
        super().__init__()
        narrow, wide = WIDTHS[0] // 2, WIDTHS[1]
        self.down1 = nn.Sequential(_block(in_channels, narrow, conv), _block(narrow, narrow, conv))
        self.down2 = nn.Sequential(_block(narrow, wide, conv), _block(wide, wide, conv))
        self.up1 = _block(wide + narrow, 2 * narrow, conv)
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        # Not from the factory: a classifier, new for every task.
        self.classifier = nn.Conv2d(2 * narrow, classes, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes at every pixel or voxel."""
        beside = self.down1(input)
        below = self.enlarge(self.down2(self.pool(beside)))
        return self.classifier(self.up1(torch.cat([beside, below], dim=1)))


def build_network(task: str, conv: str, classes: int, in_channels: int) -> nn.Module:
    """The 2D network of a task ("classification" or "segmentation") with "plain" or "crossd" convolutions."""
    kind = {"classification": TinyClassifier, "segmentation": TinyUNet}[task]
    return kind(CONVOLUTIONS[conv], classes=classes, in_channels=in_channels)
