"""Hooks that were put on modules for images: on volumes they run as the code of their network does; and back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from volumes import constant

from crossd_ops import CrossDConv2d, to_2d, to_3d


def gate(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * output.mean((2, 3), keepdim=True)


def center(module: nn.Module, inputs: Any) -> Any:
    return (inputs[0] - inputs[0].mean((2, 3), keepdim=True),)


def rows(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.cumsum(2)


class Network(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(layer, nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        return self.parts(input)


def networks() -> list[nn.Module]:
    """A container, code of its own, and a layer of this package, within which no mode looks on."""
    layers = [nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), CrossDConv2d(1, 4, 3, padding=1, padding_mode="circular").eval()]
    layers[2].fix_shift(torch.zeros(3))
    return [nn.Sequential(layers[0], nn.ReLU()), Network(layers[1]), nn.Sequential(layers[2], nn.ReLU())]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("place", ["", "0"])
def test_hooks_see_in_a_slice_what_they_saw_in_the_image(number: int, place: str) -> None:
    model, image = networks()[number], torch.randn(2, 1, 6, 8)
    name = f"parts.{place}".rstrip(".") if number == 1 else place
    part = model.get_submodule(name)
    part.register_forward_hook(gate)
    part.register_forward_pre_hook(center)
    volumes = to_3d(model, "crossd" if number == 2 else "center", example=image)
    for twin in (volumes, copy.deepcopy(volumes), pickle.loads(pickle.dumps(volumes))):
        if number < 2:
            for output in twin(constant(image, 3)).unbind(2):
                torch.testing.assert_close(output, model(image))
    back = to_2d(volumes, "crossd" if number == 2 else "center")
    torch.testing.assert_close(back(image), model(image))
    assert [*back.get_submodule(name)._forward_hooks.values()] == [gate]


def test_backward_hooks() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    model[1].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].sum((2, 3))))
    volumes = to_3d(model, "center", example=torch.randn(1, 1, 6, 8))
    seen.clear()
    volumes(torch.randn(2, 1, 3, 6, 8)).sum().backward()
    torch.testing.assert_close(seen[0], torch.full((2, 4), 3.0 * 6 * 8))


def test_hooks_without_a_meaning_are_refused_with_their_module() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    model[1].register_forward_hook(rows)
    with pytest.raises(TypeError, match=r"^1: expected hooks that work on volumes too, got <function rows .*cumsum\("):
        to_3d(model, "center")(torch.randn(2, 1, 3, 6, 8))
    deep = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU())
    deep[0].register_forward_hook(gate)
    with pytest.raises(TypeError, match=r"^0: expected hooks that work on images too, got <function gate .*mean\("):
        to_2d(deep, "i3d")(torch.randn(2, 1, 6, 8))


def test_hooks_are_not_compiled() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    model[1].register_forward_hook(gate)
    volumes, volume = to_3d(model, "center"), torch.randn(2, 1, 3, 6, 8)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="1: expected hooks that a compiled graph shows, got"):
        torch.compile(volumes, backend="eager", fullgraph=True)(volume)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(volumes, backend="eager")(volume), volumes(volume))
