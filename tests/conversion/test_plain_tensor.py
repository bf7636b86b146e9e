"""Tensors of subclasses, as data libraries make them: calls take them, and leave nothing but plain tensors behind."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_zoo import library
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from crossd_ops import (
    CrossDConv2d,
    CrossDConv3d,
    bake,
    calibrate,
    load_published,
    save_published,
    to_2d,
    to_3d,
    to_crossd,
    with_early_heads,
)
from crossd_ops.conversion import mean_shifts
from crossd_ops.layers.plain_tensor import plain_tensor


class Tagged(Tensor):
    """A subclass that every result of it is of, too."""


def of_monai(tensor: Tensor) -> Tensor:
    library("monai")
    from monai.data import MetaTensor

    return MetaTensor(tensor, meta={"filename_or_obj": "name_of_the_patient.nii"})


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "subclass": lambda tensor: tensor.as_subclass(Tagged),
    "monai": of_monai,
}


@pytest.fixture(params=KINDS)
def tag(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return KINDS[request.param]


def assert_plain(value: Any) -> None:
    """All tensors in a state, and what reading its file without trust in anything else gives."""
    state = value.state_dict() if isinstance(value, nn.Module) else value
    assert len(state) > 0
    assert {type(tensor) for tensor in state.values()} <= {Tensor, nn.Parameter}
    file = io.BytesIO()
    torch.save(state, file)
    assert b"name_of_the_patient" not in file.getvalue()
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=True), dict(state), rtol=0, atol=0)
    if isinstance(value, nn.Module):
        assert {type(parameter) for parameter in value.parameters()} == {nn.Parameter}


def test_a_subclass_loses_its_class_alone(tag: Callable[[Tensor], Tensor]) -> None:
    tensor = torch.randn(3, requires_grad=True)
    tagged = tag(tensor)
    plain = plain_tensor(tagged)
    assert type(tagged) is not Tensor and type(plain) is Tensor
    torch.testing.assert_close(plain, tensor, rtol=0, atol=0)
    plain.sum().backward()
    assert torch.equal(tensor.grad, torch.ones(3))
    assert type(plain_tensor(nn.Parameter(tensor.detach()))) is Tensor
    assert plain_tensor(tensor) is tensor


def test_tensors_of_another_kind_of_memory_stay_what_they_are() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(3))
    assert plain_tensor(fake) is fake


@pytest.mark.parametrize("kind, axes", [(CrossDConv2d, 2), (CrossDConv3d, 3)])
def test_a_fixed_shift(kind: type[nn.Module], axes: int, tag: Callable[[Tensor], Tensor]) -> None:
    layer: Any = kind(2, 4, 3)
    shift = torch.tensor([0.4, -0.6, 1.5])
    layer.fix_shift(tag(shift))
    assert type(layer.fixed_shift) is Tensor and torch.equal(layer.fixed_shift, shift)
    assert type(layer(torch.randn(2, 2, *(5,) * axes))) is Tensor
    assert type(copy.deepcopy(layer).half().fixed_shift) is Tensor
    assert_plain({"shift": layer.fixed_shift})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind, axes", [(CrossDConv2d, 2), (CrossDConv3d, 3)])
def test_training(kind: type[nn.Module], axes: int, dtype: torch.dtype, tag: Callable[[Tensor], Tensor]) -> None:
    layer: Any = kind(2, 4, 3, dtype=dtype)
    twin, input = copy.deepcopy(layer), torch.randn(2, 2, *(5,) * axes, dtype=dtype)
    for module, images in ((layer, tag(input)), (twin, input)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            module(images).square().mean().backward()
            optimizer.step()
        assert_plain(module)
        assert_plain({name: parameter.grad for name, parameter in module.named_parameters()})
        assert {type(entry["momentum_buffer"]) for entry in optimizer.state.values()} == {Tensor}
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())
    assert layer.rotation_params[1].running_mean.any()


def network() -> nn.Sequential:
    return nn.Sequential(CrossDConv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), CrossDConv2d(4, 4, 3)).eval()


def test_calibration(tag: Callable[[Tensor], Tensor]) -> None:
    model, images = network(), torch.randn(3, 1, 8, 8)
    expected = calibrate(model, [images], progress=False)
    shifts = calibrate(model, [{"image": tag(images)}], progress=False)
    torch.testing.assert_close(shifts, expected)
    assert_plain(shifts)
    recorded = {name: tag(values) for name, values in expected.items()}
    for batches in ([tag(images)], recorded):
        assert_plain(mean_shifts(model, batches, progress=False))
        baked = bake(model, batches, progress=False)
        assert_plain(baked)
        torch.testing.assert_close(baked(images), bake(model, expected)(images))
        for recipe in ("shifted", "slice-i3d", "slice-acs"):
            assert_plain(to_3d(model, recipe, batches=batches, progress=False, example=images))


def of_subclass(model: nn.Module, tag: Callable[[Tensor], Tensor]) -> nn.Module:
    """`model` with such weights as calls of other code leave behind."""
    for module in model.modules():
        for name in ("weight", "weights_3d", "bias"):
            if (parameter := module._parameters.get(name)) is not None and not hasattr(module, "running_mean"):
                module._parameters[name] = nn.Parameter(tag(parameter.detach()))
    return model


def test_converters_of_such_weights(tag: Callable[[Tensor], Tensor]) -> None:
    plain = of_subclass(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, bias=False)), tag)
    assert {type(parameter) for parameter in plain.parameters()}.isdisjoint({nn.Parameter})
    crossd, transposed = of_subclass(network(), tag), of_subclass(nn.ConvTranspose2d(1, 4, 3), tag)
    image = torch.randn(1, 1, 8, 8)
    made = [to_crossd(plain), with_early_heads(crossd), bake(crossd, [torch.randn(2, 1, 8, 8)], progress=False)]
    for model, recipe in ((plain, "i3d"), (plain, "center"), (plain, "acs"), (crossd, "published"), (crossd, "crossd")):
        made += [to_3d(model, recipe, example=image), to_2d(of_subclass(to_3d(model, recipe), tag), recipe)]
    volumes = to_3d(transposed, "i3d", example=image)
    made += [volumes, to_2d(of_subclass(copy.deepcopy(volumes), tag), "i3d")]
    for model in made:
        assert_plain(model)


def test_published_checkpoints(tag: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = nn.Sequential(CrossDConv2d(1, 4, 3, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    save_published(of_subclass(model, tag), tmp_path / "published.pt")
    state = torch.load(tmp_path / "published.pt", weights_only=True)["model"]
    assert_plain(state)
    fresh = nn.Sequential(CrossDConv2d(1, 4, 3, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    load_published(fresh, {name: tag(value) if value.is_floating_point() else value for name, value in state.items()})
    assert_plain(fresh)
    assert torch.equal(fresh[0].weights_3d, model[0].weights_3d)
