"""Means over windows of volumes that are smaller than a window: as those of maps, axis by axis."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_2d, to_3d
from crossd_ops.conversion.averages import average_pool

SHAPES = ((1, 2, 3), (2, 1, 7), (4, 2, 2))
# kernel, stride, padding along all axes; the last has no padding, and one place where torch rounds up.
WINDOWS = ((3, 1, 1), (3, 2, 1), (5, 1, 2), (4, 3, 2), (3, None, 0), ((5, 3, 3), (1, 2, 1), (2, 1, 1)))


def plane_by_plane(input: Tensor, kernel: Any, stride: Any, padding: Any, *options: Any) -> Tensor:
    """The mean of a box is that along the depth of those of its planes, by torch's pool for maps."""
    parts = [value if isinstance(value, tuple) else (value,) * 3 for value in (kernel, stride or kernel, padding)]
    ceil, counted, divisor = options
    planes = input.transpose(1, 2).flatten(0, 1)
    planes = F.avg_pool2d(planes, *(part[1:] for part in parts), ceil, counted, divisor)
    volume = planes.unflatten(0, (len(input), -1)).transpose(1, 2)
    columns = volume.flatten(3)  # (B, C, D, places)
    along = [(part[0], empty) for part, empty in zip(parts, (1, 1, 0), strict=True)]
    return F.avg_pool2d(columns, *along, ceil, counted, 1 if divisor else None).unflatten(3, volume.shape[3:])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted, divisor", [(True, None), (False, None), (True, 5)])
def test_small_volumes(window: tuple[Any, ...], ceil: bool, counted: bool, divisor: int | None) -> None:
    for shape in SHAPES:
        input = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
        try:
            expected = plane_by_plane(input, *window, ceil, counted, divisor)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                average_pool(input, *window, ceil, counted, divisor)
            continue
        result = average_pool(input, *window, ceil, counted, divisor)
        torch.testing.assert_close(result, expected)
        weights = torch.randn_like(result)
        gradients = [torch.autograd.grad((output * weights).sum(), input)[0] for output in (result, expected)]
        torch.testing.assert_close(*gradients)


def test_what_torch_refuses_of_maps_too() -> None:
    for kernel, padding in ((4, 1), (3, 2)):
        with pytest.raises(RuntimeError):
            average_pool(torch.randn(1, 2, 1, 1, 1), kernel, 1, padding)
    large = torch.randn(2, 4, 5, 6)
    assert torch.equal(average_pool(large, [3], (), [1]), F.avg_pool3d(large, 3, None, 1))  # without a batch, lists


class Pooled(nn.Module):
    """The layer and the function."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv, self.options = nn.Conv2d(3, 4, 1), options
        self.pool = nn.AvgPool2d(3, 1, 1, **options)

    def forward(self, input: Tensor) -> Tensor:
        features = self.conv(input)
        return self.pool(features) - 2 * F.avg_pool2d(features, (3, 3), stride=1, padding=1, **self.options)


def one_pool(**options: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, 1, 1, **options))


@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"ceil_mode": True}, {"divisor_override": 4}])
@pytest.mark.parametrize("network", [Pooled, one_pool])
def test_networks_on_volumes_smaller_than_their_pools(network: Any, options: dict[str, Any]) -> None:
    model, image = network(**options), torch.randn(2, 3, 1, 2)
    volumes = to_3d(model, "center", example=image)
    if options in ({}, {"count_include_pad": False}):
        # One slice between two of zeros, which count or do not.
        expected = model(image) / (1 if options else 3)
        torch.testing.assert_close(volumes(constant(image, 1))[:, :, 0], expected)
    if isinstance(model, nn.Sequential):
        assert type(pickle.loads(pickle.dumps(volumes))[1]) is type(volumes[1])
        assert type(to_2d(volumes, "center")[1]) is nn.AvgPool2d
    torch.testing.assert_close(to_2d(volumes, "center")(image), model(image))


def test_compiled_layers_on_volumes_of_several_sizes() -> None:
    volumes = to_3d(Pooled(), "center", example=torch.randn(1, 3, 4, 5)).eval()
    compiled = torch.compile(volumes, backend="eager", fullgraph=True)
    for sizes in ((6, 7, 8), (5, 5, 5), (1, 2, 4)):  # dynamic from the second on
        volume = torch.randn(2, 3, *sizes)
        torch.testing.assert_close(compiled(volume), volumes(volume))
