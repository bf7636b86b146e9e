"""Planes of the 3D weights: what is set is used, what cannot be is refused before anything changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossd_ops import CrossDConv2d
from crossd_ops.planes import random_plane, set_plane, sum_of_planes


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_layers_use_the_plane_that_was_set(dim: int) -> None:
    model = nn.Sequential(CrossDConv2d(2, 3, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
    layer = model[0]
    assert isinstance(layer, CrossDConv2d)
    layer.fix_shift(torch.zeros(3))
    set_plane(model, dim)
    input = torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(layer(input), F.conv2d(input, layer.weights_3d.select(2 + dim, 1), padding=1))


def test_random_planes_are_all_three_and_repeatable() -> None:
    model = nn.Sequential(CrossDConv2d(2, 3, 3), CrossDConv2d(3, 3, 3))
    drawn = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        drawn.append([random_plane(model, generator) for _ in range(30)])
        assert [layer.dim for layer in model] == [drawn[-1][-1]] * 2
    assert drawn[0] == drawn[1] and set(drawn[0]) == {0, 1, 2}


def test_refusals_change_nothing() -> None:
    model = nn.Sequential(CrossDConv2d(2, 3, 3), CrossDConv2d(3, 3, (3, 5)))
    with pytest.raises(ValueError, match=r"1: expected a cubic weight, whose planes are alike, got \(3, 3, 5, 3, 5\)"):
        set_plane(model, 1)
    assert [layer.dim for layer in model] == [0, 0]
    with pytest.raises(ValueError, match="dim: expected 0, 1 or 2, got 3"):
        set_plane(model[:1], 3)
    with pytest.raises(ValueError, match="expected Cross-D convolutions"):
        random_plane(nn.Conv2d(1, 1, 3))
    with pytest.raises(ValueError, match=r"weight: expected \(O, C, K, K, K\), got \(2, 2, 3, 3\)"):
        sum_of_planes(torch.zeros(2, 2, 3, 3))
    with pytest.raises(TypeError, match="weight"):
        sum_of_planes([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("size", [3, 4])
def test_sum_of_planes_adds_three_planar_convolutions(same: bool, size: int) -> None:
    weight = torch.randn(3, 2, size, size, size, dtype=torch.float64)
    kept = weight.clone()
    volume = torch.randn(2, 2, 7, 7, 7, dtype=torch.float64)
    middle = size // 2
    expected = 0
    for axis in range(3):
        kernel = weight.select(2 if same else 2 + axis, middle).unsqueeze(2 + axis)
        # The plane stands at the middle element of the axis to which it has no extent.
        part = volume.narrow(2 + axis, middle, 7 - size + 1)
        expected = expected + F.conv3d(part, kernel)
    torch.testing.assert_close(F.conv3d(volume, sum_of_planes(weight, same=same)), expected)
    assert torch.equal(weight, kept)
