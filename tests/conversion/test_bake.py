"""Baking: the plain network computes what the Cross-D network does with its mean shifts, and needs no crossd_ops."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossd_ops
from crossd_ops.conversion import CrossDConv2dSame, to_crossd
from crossd_ops.conversion.bake import bake
from crossd_ops.conversion.calibration import calibrate, mean_shifts

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": (1, 0), "bias": False},
    "groups": {"kernel_size": 3, "groups": 2, "dilation": 2},
    "even": {"kernel_size": (2, 4), "padding": "same"},
    "reflect": {"kernel_size": (3, 5), "padding": (1, 2), "padding_mode": "reflect"},
    "same circular": {"kernel_size": (4, 3), "padding": "same", "padding_mode": "circular", "dilation": (1, 2)},
    "other slice": {"kernel_size": (3, 5), "dim": 2, "index": 0, "depth": 4, "rotation": "exact"},
    "pointwise": {"kernel_size": 1, "stride": 2},
}


def with_fixed_shifts(model: nn.Module, shifts: dict[str, Tensor]) -> nn.Module:
    model = copy.deepcopy(model)
    for name, shift in shifts.items():
        model.get_submodule(name).fix_shift(shift)
    return model


def batches_of(channels: int, *sizes: int) -> list[Tensor]:
    return [torch.randn(size, channels, 9, 8) for size in sizes]


@pytest.mark.parametrize("arguments", LAYERS.values(), ids=LAYERS)
def test_a_layer_becomes_the_convolution_of_its_mean_shift(arguments: dict[str, Any]) -> None:
    model = nn.Sequential(crossd_ops.CrossDConv2d(4, 6, **arguments).double())
    batches = [batch.double() for batch in batches_of(4, 3, 1)]
    baked = bake(model, batches, progress=False)
    assert type(baked[0]) is nn.Conv2d
    fixed = with_fixed_shifts(model, mean_shifts(model, batches, progress=False))
    torch.testing.assert_close(baked(batches[0]), fixed(batches[0]), rtol=1e-12, atol=1e-12)
    assert (baked(batches[0]) - model(batches[0])).abs().max() > 1e-6 or model[0].kernel_size == (1, 1)


@pytest.mark.parametrize("dim", [0, 2])
def test_a_layer_of_volumes(dim: int) -> None:
    layer = crossd_ops.CrossDConv3d(2, 4, (4, 3, 2), stride=(1, 2, 1), padding=1, groups=2, dim=dim)
    model = nn.Sequential(layer.double())
    input = torch.randn(3, 2, 5, 6, 7, dtype=torch.float64)
    baked = bake(model, [input], progress=False)
    assert type(baked[0]) is nn.Conv3d
    fixed = with_fixed_shifts(model, mean_shifts(model, [input], progress=False))
    torch.testing.assert_close(baked(input), fixed(input), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(9, 8), (8, 11)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_that_depends_on_the_size(stride: int, size: tuple[int, int]) -> None:
    model = nn.Sequential(CrossDConv2dSame(4, 6, (3, 2), stride))
    input = torch.randn(2, 4, *size)
    baked = bake(model, [input], progress=False)
    fixed = with_fixed_shifts(model, mean_shifts(model, [input], progress=False))
    torch.testing.assert_close(baked(input), fixed(input))
    assert not any("crossd_ops" in type(module).__module__ for module in baked.modules())
    assert [parameter.dim() for parameter in baked.parameters()] == [4, 1]


def small_network() -> nn.Module:
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, 2)
    )
    plain.add_module("again", plain[4])
    return to_crossd(plain, init="random")


def test_a_network() -> None:
    model = small_network()
    model[0].weights_3d.requires_grad_(False)
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    batches = batches_of(3, 3, 2)
    shifts = calibrate(model, batches, progress=False)
    baked = bake(model, shifts)
    assert baked.training and not baked[1].training
    assert not baked[0].weight.requires_grad and baked[4].weight.requires_grad
    assert baked[4] is baked.again
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    fixed = with_fixed_shifts(model, mean_shifts(model, shifts)).eval()
    torch.testing.assert_close(baked.eval()(batches[0]), fixed(batches[0]))
    torch.testing.assert_close(bake(model, batches, progress=False).eval()(batches[0]), baked(batches[0]))
    baked.train()(batches[0]).sum().backward()
    assert baked[4].weight.grad is not None


def test_half_precision() -> None:
    model = small_network().to(torch.bfloat16).eval()
    batch = torch.randn(2, 3, 9, 8).bfloat16()
    shifts = mean_shifts(model, [batch], progress=False)
    baked = bake(model, [batch], progress=False)
    assert baked[0].weight.dtype is torch.bfloat16
    expected = with_fixed_shifts(model, shifts)(batch)
    torch.testing.assert_close(baked(batch), expected, rtol=2e-2, atol=2e-2)


RUN_WITHOUT_CROSSD = """
import sys
sys.modules["crossd_ops"] = None  # every import of it fails
import torch
folder = sys.argv[1]
input, expected = torch.load(f"{folder}/tensors.pt")
for model in (torch.load(f"{folder}/model.pt", weights_only=False), torch.export.load(f"{folder}/model.pt2").module()):
    torch.testing.assert_close(model(input), expected)
print("same")
"""


def test_runs_where_crossd_ops_is_not_installed(tmp_path: Path) -> None:
    model = small_network()
    model.append(CrossDConv2dSame(4, 2, 3, stride=2))
    input = torch.randn(2, 3, 9, 8)
    baked = bake(model.eval(), [input], progress=False)
    torch.save(baked, tmp_path / "model.pt")
    torch.export.save(torch.export.export(baked, (input,)), tmp_path / "model.pt2")
    torch.save((input, baked(input).detach()), tmp_path / "tensors.pt")
    command = [sys.executable, "-c", RUN_WITHOUT_CROSSD, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "same", result.stderr


def test_errors() -> None:
    batches = batches_of(3, 2)
    with pytest.raises(ValueError, match="expected Cross-D convolutions"):
        bake(nn.Sequential(nn.Conv2d(3, 4, 3)), batches)
    with pytest.raises(ValueError, match="at least one batch"):
        bake(small_network(), [], progress=False)
    tied = nn.Sequential(crossd_ops.CrossDConv2d(3, 3, 3), crossd_ops.CrossDConv2d(3, 3, 3))
    tied[1].weights_3d = tied[0].weights_3d
    with pytest.raises(ValueError, match="untie"):
        bake(tied, batches, progress=False)
