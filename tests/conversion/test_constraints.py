"""Weights that are computed (pruning, weight_norm, spectral_norm, ...): right or refused, and no model is changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_inheritance import CONVERTERS
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from crossd_ops import (
    ACSConv3d,
    CrossDConv2d,
    CrossDConv3d,
    adapt_input_channels,
    bake,
    calibrate,
    to_2d,
    to_3d,
    to_crossd,
)
from crossd_ops.checkpoints import save_published

BAKES = [name for name in CONVERTERS if name.startswith("bake")]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


def _by_hook(apply: Callable[..., Any]) -> Callable[[nn.Module, str], Any]:
    def change(layer: nn.Module, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            apply(layer, name)

    return change


# Each with what removes it, as the error says.
HOOKS: dict[str, tuple[Callable[[nn.Module, str], Any], str]] = {
    "pruning": (lambda layer, name: prune.l1_unstructured(layer, name, 0.5), "torch.nn.utils.prune.remove"),
    "weight_norm": (_by_hook(nn.utils.weight_norm), "torch.nn.utils.remove_weight_norm"),
    "spectral_norm": (_by_hook(nn.utils.spectral_norm), "torch.nn.utils.remove_spectral_norm"),
}
PARAMETRISATIONS: dict[str, Callable[[nn.Module, str], Any]] = {
    "WeightNorm": parametrizations.weight_norm,
    "SpectralNorm": parametrizations.spectral_norm,
    "Orthogonal": parametrizations.orthogonal,
    "Doubled": lambda layer, name: parametrize.register_parametrization(layer, name, Doubled()),
}
WAYS = {
    name: (change, "torch.nn.utils.parametrize.remove_parametrizations") for name, change in PARAMETRISATIONS.items()
}
WAYS.update(HOOKS)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a conversion could change: values, versions, flags, hooks, and what stands in attributes."""
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items():
            key = f"{prefix}.{name}"
            if isinstance(value, Tensor):
                grad = value.grad if value.is_leaf else None
                found[key] = (value, value.detach().clone(), value.requires_grad, value._version, grad)
            elif isinstance(value, dict):
                found[key] = list(value.items())
            else:
                found[key] = copy.copy(value) if isinstance(value, list | set) else value
        found[f"{prefix}.type"] = type(module)
    return found


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert [*after] == [*before]
    for key, value in before.items():
        now = after[key]
        if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            assert now[0] is value[0] and torch.equal(now[1], value[1]) and now[2:] == value[2:], key
        elif isinstance(value, list):
            assert len(now) == len(value) and all(a is b or a == b for a, b in zip(now, value, strict=True)), key
        else:
            assert now is value or now == value, key


def network(layer: nn.Module) -> nn.Module:
    """The layer, and others whose weights are computed: networks are converted with such parts in them."""
    axes = 3 if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | CrossDConv3d | ACSConv3d) else 2
    norm, pool = (nn.BatchNorm3d, nn.AdaptiveAvgPool3d) if axes == 3 else (nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
    linear = [nn.Linear(4, 4) for _ in WAYS]
    for part, (change, _) in zip(linear, WAYS.values(), strict=True):
        change(part, "weight")
    model = nn.Sequential(layer, norm(4), nn.Dropout(), pool(1), nn.Flatten(), *linear)
    model(torch.randn(2, 1, *(6,) * axes)).sum().backward()
    model[1].eval()
    model[2].eval()
    model[5].requires_grad_(False)
    model[0].register_forward_hook(lambda module, inputs, output: None)
    model[3].register_state_dict_pre_hook(lambda module, prefix, keep: None)
    model.stages = [model[0], "note"]
    return model


# These draw heads anew, or batches in the test.
DRAWS = ("to_crossd", "to_2d, published", "to_2d, same", "with_early_heads", *BAKES)


@pytest.mark.parametrize("converter", CONVERTERS)
def test_no_conversion_changes_the_model(converter: str) -> None:
    build, convert = CONVERTERS[converter]
    model = network(build())
    before, state = snapshot(model), torch.get_rng_state()
    twin = convert(model)
    assert_unchanged(model, before)
    assert converter in DRAWS or torch.equal(torch.get_rng_state(), state)
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert not own & {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}


def test_nor_do_others_that_read_it(tmp_path: Any) -> None:
    model = network(CrossDConv2d(1, 4, 3, bias=False))
    before = snapshot(model)
    calibrate(model, [torch.randn(2, 1, 6, 6)], progress=False)
    save_published(model, tmp_path / "published.pth")
    assert_unchanged(model, before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("converter", CONVERTERS)
def test_weights_that_are_computed(converter: str, way: str) -> None:
    build, convert = CONVERTERS[converter]
    model = nn.Sequential(build())
    name = "weights_3d" if "weights_3d" in model[0]._parameters else "weight"
    WAYS[way][0](model[0], name)
    before = snapshot(model)
    if converter in BAKES and way in PARAMETRISATIONS:
        convert(model)
    else:
        remedy = rf"call {WAYS[way][1]}\(layer, '{name}'\) first"
        early = "^model: expected plain CrossDConv2d layers, got others: 0"
        expected = rf"^0: expected a {name} that is a parameter, got one that is computed \({way}\).*{remedy}"
        with pytest.raises(ValueError, match=early if converter == "with_early_heads" else expected):
            convert(model)
    assert_unchanged(model, before)


@pytest.mark.parametrize("converter", [name for name in CONVERTERS if name not in ("adapt_input_channels",)])
def test_biases_that_are_computed(converter: str) -> None:
    build, convert = CONVERTERS[converter]
    for way in ("Doubled", "pruning"):
        model = nn.Sequential(build())
        WAYS[way][0](model[0], "bias")
        if converter in BAKES and way == "Doubled":
            bias = model[0].bias
            twin = convert(model)[0]
            torch.testing.assert_close(getattr(twin, "convolution", twin).bias, bias)
        else:
            with pytest.raises(ValueError, match=r"^(0: expected a bias that|model: expected plain CrossDConv2d)"):
                convert(model)


@pytest.mark.parametrize("way", PARAMETRISATIONS)
def test_bake_takes_what_the_model_computes_in_evaluation(way: str) -> None:
    model: Any = nn.Sequential(CrossDConv2d(1, 4, 3, padding=1))
    PARAMETRISATIONS[way](model[0], "weights_3d")
    image = torch.randn(2, 1, 6, 6)
    model(image)  # spectral_norm iterates, in training
    baked: Any = bake(model, [image], progress=False)
    assert type(baked[0]) is nn.Conv2d and baked[0].weight.requires_grad and baked[0].weight.is_leaf
    shift = calibrate(model, [image], progress=False)["0"].mean(0)
    model.eval()[0].fix_shift(shift)
    torch.testing.assert_close(baked(image), model(image))


def test_a_weight_that_is_another_each_time() -> None:
    model = nn.Sequential(CrossDConv2d(1, 4, 3))
    parametrize.register_parametrization(model[0], "weights_3d", Noisy())
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"0: expected a weights_3d that is the same whenever it is read, .*Noisy"):
        bake(model, [torch.ones(2, 1, 6, 6)], progress=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_remedies_help() -> None:
    for way, remove in (
        ("pruning", prune.remove),
        ("weight_norm", nn.utils.remove_weight_norm),
        ("spectral_norm", nn.utils.remove_spectral_norm),
        ("Doubled", parametrize.remove_parametrizations),
    ):
        model: Any = nn.Sequential(nn.Conv2d(1, 4, 3))
        WAYS[way][0](model[0], "weight")
        weight = model[0].weight.detach().clone() if way != "spectral_norm" else None
        remove(model[0], "weight")
        twin: Any = to_2d(to_3d(model, "center", example=torch.randn(1, 1, 5, 6)), "center")
        torch.testing.assert_close(twin[0].weight, model[0].weight if weight is None else weight)


@pytest.mark.parametrize("part", [0, 1, 3])
def test_of_a_head(part: int) -> None:
    for layer, convert, other in (
        (CrossDConv2d(1, 4, 3), lambda model: to_3d(model, "crossd"), proven),
        (CrossDConv3d(1, 4, 3), to_2d, baked_volume),
    ):
        model = nn.Sequential(layer)
        prune.l1_unstructured(layer.rotation_params[part], "weight", 0.5)
        with pytest.raises(ValueError, match=rf"^0\.rotation_params\.{part}: expected a weight that.*prune\.remove"):
            convert(model)
        other(model)  # drops the head
    head = CrossDConv2d(1, 4, 3)
    prune.l1_unstructured(head.rotation_params[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"^0\.rotation_params\.0: expected a weight that"):
        adapt_input_channels(nn.Sequential(head), 2)


def proven(model: nn.Module) -> nn.Module:
    return to_3d(model, example=torch.randn(1, 1, 6, 6))


def baked_volume(model: nn.Module) -> nn.Module:
    return bake(model, [torch.randn(2, 1, 6, 6, 6)], progress=False)


def test_other_layers_keep_their_constraints() -> None:
    model = network(nn.Conv2d(1, 4, 3)).eval()
    image = torch.randn(2, 1, 6, 6)
    twin: Any = to_crossd(model)
    torch.testing.assert_close(twin(image), model(image))
    assert [len(part._forward_pre_hooks) for part in twin[5:]] == [len(part._forward_pre_hooks) for part in model[5:]]
    expected = model(image)
    with torch.no_grad():
        for part in twin.train()[5:]:
            for parameter in part.parameters():
                parameter.mul_(1.5)
    twin(image).sum().backward()
    assert all(parameter.grad is not None for parameter in twin[6].parameters())
    torch.testing.assert_close(model(image), expected)
    volumes = to_3d(model, "center", example=image)
    torch.testing.assert_close(volumes(image[:, :, None].expand(-1, -1, 3, -1, -1)), model(image))


def test_a_result_that_was_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    model[1].loss = model(torch.randn(1, 1, 5, 5)).sum()
    with pytest.raises(TypeError, match=r"^1\.loss: expected a tensor that can be copied, .* detach or delete it"):
        to_crossd(model)
    model[1].loss = model[1].loss.detach()
    assert torch.equal(to_crossd(model)[1].loss, model[1].loss)
