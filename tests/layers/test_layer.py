"""What layers of two and of three axes share: the fixed shift, wherever the layer goes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from crossd_ops import CrossDConv2d, CrossDConv2dEarly, CrossDConv3d
from crossd_ops.conversion import CrossDConv2dSame, WeightStandardization

SHIFT = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)  # of which float32 keeps not every digit, and bfloat16 few


def standardized() -> CrossDConv2d:
    layer = CrossDConv2d(2, 4, 3)
    parametrize.register_parametrization(layer, "weights_3d", WeightStandardization(1e-6))
    return layer


LAYERS: dict[str, Callable[[], Any]] = {
    "CrossDConv2d": lambda: CrossDConv2d(2, 4, 3),
    "CrossDConv2dEarly": lambda: CrossDConv2dEarly(2, 4, 3),
    "CrossDConv2dSame": lambda: CrossDConv2dSame(2, 4, 3, stride=2),
    "CrossDConv3d": lambda: CrossDConv3d(2, 4, 3),
    "standardized": standardized,
}


def fixed(layer: Any) -> Any:
    layer.fix_shift(SHIFT)
    return layer


def input_of(layer: nn.Module, **options: Any) -> Tensor:
    return torch.randn(2, 2, *[6] * (3 if "3d" in type(layer).__name__ else 2), **options)


@pytest.mark.parametrize("name", LAYERS)
def test_memory_for_a_layer_of_the_meta_device(name: str) -> None:
    """No values were there, so none may seem to be: NaN shows in every result until the shift is fixed again."""
    with torch.device("meta"):
        layer = fixed(LAYERS[name]())
    model = copy.deepcopy(nn.Sequential(layer))
    assert model[0].fixed_shift.is_meta
    model.to_empty(device="cpu")
    got = model[0].fixed_shift
    assert got.device.type == "cpu" and got.dtype is torch.float32 and got.shape == (3,) and got.isnan().all()
    assert type(got) is Tensor and not got.requires_grad and "fixed_shift" in dict(model[0].named_buffers())
    values = LAYERS[name]().state_dict()
    model[0].load_state_dict(values)
    input = input_of(model[0])
    assert model(input).isnan().all()
    fixed(model[0])
    expected = fixed(LAYERS[name]())
    expected.load_state_dict(values)
    assert torch.equal(model(input), expected(input))


@pytest.mark.parametrize("name", LAYERS)
def test_to_the_meta_device_and_back(name: str) -> None:
    layer = fixed(LAYERS[name]()).double()
    fixed(layer)
    assert layer.to("meta").fixed_shift.is_meta and layer.fixed_shift.dtype is torch.float64
    assert layer.half().fixed_shift.is_meta and layer.fixed_shift.dtype is torch.float32
    with pytest.raises(NotImplementedError, match="to_empty"):  # torch's words, as of every other layer
        layer.to("cpu")
    assert layer.to_empty(device="cpu").fixed_shift.isnan().all()
    again = layer.to_empty(device="meta").to_empty(device="cpu", recurse=False)
    assert again.fixed_shift.isnan().all() and not again.fixed_shift.is_meta


@pytest.mark.parametrize("name", LAYERS)
def test_every_conversion_keeps_the_digits(name: str) -> None:
    layer = fixed(LAYERS[name]().double())
    assert torch.equal(layer.fixed_shift, SHIFT)
    for copied in (copy.deepcopy(layer), layer.to_empty(device="cpu"), layer.to("cpu"), layer.share_memory()):
        assert torch.equal(copied.fixed_shift, SHIFT) and copied.fixed_shift.dtype is torch.float64
    for convert in (nn.Module.half, nn.Module.bfloat16, nn.Module.float, lambda module: module.to(torch.float16)):
        converted = convert(copy.deepcopy(layer))
        assert torch.equal(converted.fixed_shift, SHIFT.float()), "a half type has too few digits for a shift"
    assert layer.float().double().fixed_shift.dtype is torch.float64
    file = io.BytesIO()
    if name != "standardized":  # of a parametrised module torch makes no pickle
        torch.save(layer, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False).fixed_shift, layer.fixed_shift)
        assert torch.equal(pickle.loads(pickle.dumps(layer)).fixed_shift, layer.fixed_shift)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_a_fixed_shift_has_none_afterwards(name: str) -> None:
    with torch.device("meta"):
        layer = LAYERS[name]()
    assert layer.to_empty(device="cpu").double().half().to("meta").fixed_shift is None


def test_values_assigned_to_a_network_of_the_meta_device() -> None:
    """They hold no shift, so the one that is fixed stays where it was, and is refused by name."""
    with torch.device("meta"):
        layer = fixed(CrossDConv2d(2, 4, 3))
    layer.load_state_dict(CrossDConv2d(2, 4, 3).state_dict(), assign=True)
    with pytest.raises(ValueError, match=r"shift: expected the device of weight \(cpu\), got meta"):
        layer(input_of(layer))
    assert fixed(layer)(input_of(layer)).isfinite().all()
