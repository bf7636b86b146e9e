"""What torch counts for the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crossd_ops import crossd_conv2d, crossd_conv3d, sample_conv2d, sample_conv3d

pytestmark = pytest.mark.usefixtures("compiled_library")


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("frozen", ["", "input", "weight"])
def test_both_passes_count_as_a_plain_convolution(axes: int, frozen: str) -> None:
    module = (nn.Conv2d if axes == 2 else nn.Conv3d)(4, 6, (3, 5, 2)[-axes:], stride=2, padding=1)
    weight = torch.randn(6, 4, 3, 5, 2)
    convolution = crossd_conv2d if axes == 2 else crossd_conv3d
    of_samples = sample_conv2d if axes == 2 else sample_conv3d
    counts = []
    for run in (
        lambda x, w: module(x),
        lambda x, w: convolution(x, w, torch.randn(3, 3), None, 2, 1),
        lambda x, w: of_samples(
            x, (w if axes == 3 else w[:, :, 0]).expand(3, *w.shape[:2], *w.shape[-axes:]), stride=2, padding=1
        ),
    ):
        x = torch.randn(3, 4, *(9, 8, 7)[:axes], requires_grad=frozen != "input")
        w = weight.clone().requires_grad_(frozen != "weight")
        module.weight.requires_grad_(frozen != "weight")
        with FlopCounterMode(display=False) as counter:
            run(x, w).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == counts[2] > 0
