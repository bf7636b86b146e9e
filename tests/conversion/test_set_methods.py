"""Methods that were set on a module itself, as wrappers do with its forward: a copy would go on with the original."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_inheritance import CONVERTERS, Convert
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, adapt_input_channels, bake, calibrate, to_2d, to_3d, to_crossd


def closure(module: nn.Module, method: str = "forward") -> None:
    """Checkpoint wrappers, precision wrappers."""
    original = getattr(module, method)
    setattr(module, method, lambda *inputs: original(*inputs))


def partial(module: nn.Module, method: str = "forward") -> None:
    """accelerate's hooks."""

    def new(module: nn.Module, *inputs: Any) -> Any:
        return original(*inputs)

    original = getattr(module, method)
    setattr(module, method, functools.update_wrapper(functools.partial(new, module), original))


def bound(module: nn.Module, method: str = "forward") -> None:
    original = getattr(module, method)
    setattr(module, method, types.MethodType(lambda self, *inputs: original(*inputs), module))


def of_another_module(module: nn.Module, method: str = "forward") -> None:
    setattr(module, method, getattr(nn.Sequential(module), method))


WAYS = (closure, partial, bound, of_another_module)


@pytest.mark.parametrize("where", ["network", "part", "layer"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("converter", CONVERTERS)
def test_refused_by_name(converter: str, way: Callable[[nn.Module], None], where: str) -> None:
    build, convert = CONVERTERS[converter]
    model = nn.Sequential(build(), nn.Sequential(nn.ReLU())).eval()
    module, name = {"network": (model, "model"), "part": (model[1], "1"), "layer": (model[0], "0")}[where]
    way(module)
    kind = type(module).__name__
    for wrapped in (model, copy.deepcopy(model)):
        with pytest.raises(TypeError, match=rf"^{name}: expected the forward of {kind}, got one set on the module"):
            convert(wrapped)


@pytest.mark.parametrize("method", ["train", "to", "state_dict", "_conv_forward", "extra_repr"])
def test_other_methods(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    closure(model[0], method)
    with pytest.raises(TypeError, match=f"^0: expected the {method} of Conv2d, got one set on the module"):
        to_crossd(model)


def test_of_a_head() -> None:
    model = nn.Sequential(CrossDConv2d(1, 4, 3))
    closure(model[0].rotation_params[0])
    for convert in (lambda: to_3d(model, "crossd"), lambda: bake(model, [torch.randn(1, 1, 8, 8)], progress=False)):
        with pytest.raises(TypeError, match=r"^0\.rotation_params\.0: expected the forward of Conv2d"):
            convert()


def test_before_any_batch_is_drawn() -> None:
    model = nn.Sequential(CrossDConv2d(1, 4, 3))
    closure(model)
    drawn: list[Tensor] = []
    batches = (drawn.append(batch) or batch for batch in [torch.randn(1, 1, 8, 8)])
    for convert in (bake, lambda model, batches: to_3d(model, "shifted", batches=batches)):
        with pytest.raises(TypeError, match="expected the forward"):
            convert(model, batches)
    assert not drawn
    assert calibrate(model, batches, progress=False)["0"].shape == (1, 3)  # which copies nothing


class Fused(nn.Module):
    """A network that chooses between forwards of its own, as re-parametrised ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)
        self.forward = self.forward_fused

    def forward_fused(self, input: Tensor) -> Tensor:
        return self.layer(input)


def proven(model: nn.Module) -> nn.Module:
    return to_3d(model, "i3d", example=torch.randn(1, 1, 5, 6))


def zeroed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("convert", [to_crossd, proven, lambda m: adapt_input_channels(m, 2)])
def test_a_forward_of_its_own_is_that_of_the_copy(convert: Convert) -> None:
    model = Fused()
    twin = convert(model)
    assert twin.forward.__self__ is twin
    input = torch.randn(1, twin.layer.in_channels, *(5,) * (3 if isinstance(twin.layer, nn.Conv3d) else 2))
    assert twin(input).abs().max() > 0
    assert zeroed(twin)(input).abs().max() == 0


def test_what_torch_compile_made() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    model.compile(backend="eager")
    input = torch.randn(1, 1, 8, 8)
    for compiled in (model, torch.compile(model, backend="eager")):
        twin = to_crossd(compiled)
        torch.testing.assert_close(twin(input), model(input))
        assert zeroed(twin)(input).abs().max() == 0


class Pooled(nn.Module):
    """Code that runs lifted in a network of volumes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool2d(self.layer(input), 2)


def test_networks_that_were_converted_before() -> None:
    volumes: Any = to_3d(Pooled(CrossDConv2d(1, 4, 3)), "crossd", example=torch.randn(1, 1, 6, 6))
    assert type(volumes) is not Pooled and isinstance(volumes, Pooled)
    input = torch.randn(2, 1, 6, 6, 6)
    colours = adapt_input_channels(volumes, 3)
    torch.testing.assert_close(colours.eval()(input.expand(-1, 3, -1, -1, -1)), volumes.eval()(input))
    baked = bake(volumes, [input], progress=False)
    for twin in (colours, baked, copy.deepcopy(volumes)):
        assert zeroed(twin)(torch.randn(1, twin.layer.in_channels, 6, 6, 6)).abs().max() == 0
    assert type(to_2d(volumes)) is Pooled
