"""Entries of published checkpoints, turned into entries of a model's state, and back; files are not touched here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from ..layers.plain_tensor import plain_tensor

WEIGHT, EARLY_WEIGHT, HEAD = "weights_3d", "weights_fft", "rotation_params."
_HEAD_CHANNELS = 16


@dataclass
class Plan:
    """The state to load, and what becomes of the entries of checkpoint and model."""

    state: dict[str, Tensor] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def plan_loading(model: nn.Module, checkpoint: Mapping[str, Tensor]) -> Plan:
    """Finds the source of every entry of the model's state in `checkpoint`; nothing is loaded yet.

    Raises:
        ValueError: entries of the model without a source, entries of the checkpoint without a use, or sizes that
            differ; all are named.
    """
    plan, target, rest = Plan(), model.state_dict(), dict(checkpoint)
    layers = dict(_layers(model))
    for key in checkpoint:
        prefix, _, name = key.rpartition(".")
        if name in (WEIGHT, EARLY_WEIGHT) and prefix in layers:
            _plan_layer(plan, layers[prefix], key, rest, target)
    for key in target:
        if key in rest:
            plan.state[key] = rest.pop(key)
            plan.matched.append(key)
    plan.state.update((key, target[key]) for key in plan.kept)
    _check_complete(plan.state, target, unexpected=[*rest])
    return plan


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module under each of its names, without what is inside a Cross-D layer."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if not name.startswith(inside or ("\0",)):
            yield name, module
            if isinstance(module, CrossDConv2d | CrossDConv3d):
                inside += (f"{name}." if name else "",)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}


def _plan_layer(plan: Plan, layer: nn.Module, key: str, rest: dict[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Plans what of one layer of the checkpoint, with the weight `key`, is not taken as it is, out of `rest`."""
    early = key.endswith(EARLY_WEIGHT)
    prefix = key.removesuffix(EARLY_WEIGHT if early else WEIGHT)
    weight = _of_early(key, rest[key]) if early else rest[key]
    head = {name: value.shape for name, value in rest.items() if name.startswith(prefix + HEAD)}
    if isinstance(layer, CrossDConv2d):
        own_head = {name: value.shape for name, value in target.items() if name.startswith(prefix + HEAD)}
        if early:
            del rest[key]
            plan.state[prefix + WEIGHT] = weight
            plan.converted[prefix + WEIGHT] = f"real part of the inverse Fourier transform of {EARLY_WEIGHT}"
            if head != own_head:
                _drop(plan, rest, head, "the early head, another function: with_early_heads(model) has it")
                plan.kept.update(dict.fromkeys(own_head, "the checkpoint has no head of this kind"))
    elif _is_pointwise(layer) and weight.shape[2:].numel() == 1:
        del rest[key]
        plan.state[prefix + "weight"] = weight.flatten(2)[..., None]
        plan.converted[prefix + "weight"] = f"{EARLY_WEIGHT if early else WEIGHT} of kernel size 1"
        _drop(plan, rest, head, "head of a layer of kernel size 1, without effect")
    if prefix + "bias" in target and prefix + "bias" not in rest:
        plan.state[prefix + "bias"] = torch.zeros_like(target[prefix + "bias"])
        plan.converted[prefix + "bias"] = "set to 0: the published layer has no bias"


def _drop(plan: Plan, rest: dict[str, Tensor], names: Mapping[str, object], reason: str) -> None:
    for name in names:
        del rest[name]
        plan.dropped[name] = reason


def _of_early(name: str, spectrum: Tensor) -> Tensor:
    """The real 3D weight of an early layer, from its Fourier transform.

    The early layer shifted a complex weight and took the real part. Shifts by odd sizes are real, so the imaginary part
    has no effect; shifts by even sizes are not.
    """
    if not spectrum.is_complex() or spectrum.dim() != 5:
        raise ValueError(f"{name}: expected complex (O, C, K, K, K), got {spectrum.dtype} {tuple(spectrum.shape)}")
    weight: Tensor = torch.fft.ifftn(spectrum.to(torch.complex128), dim=(-3, -2, -1))
    even = any(size % 2 == 0 for size in spectrum.shape[2:])
    if even and spectrum.numel() and weight.imag.abs().max() > 1e-6 * weight.abs().max():
        raise ValueError(
            f"{name}: expected odd kernel sizes or a real weight, got {tuple(spectrum.shape[2:])} with an imaginary "
            "part, which takes part in shifts of even sizes and has no place in CrossDConv2d"
        )
    return weight.real.to(spectrum.real.dtype)


def _check_complete(state: Mapping[str, Tensor], target: Mapping[str, Tensor], unexpected: list[str]) -> None:
    missing = [key for key in target if key not in state]
    sizes = [
        f"{key} {tuple(value.shape)} instead of {tuple(target[key].shape)}"
        for key, value in state.items()
        if value.shape != target[key].shape
    ]
    faults = {"missing": missing, "not in the model": unexpected, "of another size": sizes}
    text = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
    if text:
        raise ValueError(f"checkpoint: expected every entry of the model and no other, got {text}")


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state in the published layout, on the CPU.

    Raises:
        ValueError: layers that compute what the published layer does not; every one is named with the reason.
    """
    layers = dict(_layers(model))
    faults = [f"{name or 'model'}: {reason}" for name, layer in layers.items() if (reason := _fault(layer))]
    if faults:
        raise ValueError(f"model: expected layers that the published code has, got {'; '.join(faults)}")
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        prefix, _, name = key.rpartition(".")
        layer, tensor = layers.get(prefix), plain_tensor(value).detach().cpu()
        if isinstance(layer, nn.Conv2d) and name == "weight":
            state.update(_pointwise_entries(f"{prefix}." if prefix else "", tensor, layer.in_channels))
        elif not (isinstance(layer, CrossDConv2d | nn.Conv2d) and name == "bias"):  # which is 0, see _fault
            state[key] = tensor
    return state


def _fault(layer: nn.Module) -> str | None:
    """Why the published layer cannot stand for this one."""
    if isinstance(layer, nn.Conv2d):
        if not _is_pointwise(layer):
            return f"a plain convolution of kernel size {layer.kernel_size}"
        if type(layer) is not nn.Conv2d:
            return f"a {type(layer).__name__}"
    elif isinstance(layer, CrossDConv2d | CrossDConv3d):
        if type(layer) is not CrossDConv2d:
            return f"a {type(layer).__name__}"
        if WEIGHT not in layer._parameters:
            return f"{WEIGHT} is computed from other parameters"
        checked: dict[str, tuple[object, object]] = {
            "rotation": (layer.rotation, "linear"),
            "dim": (layer.dim, 0),
            "index": (layer.index, layer.depth // 2),
            "sizes of weights_3d": (tuple(layer.weights_3d.shape[2:]), (layer.kernel_size[0],) * 3),
            "hidden channels of the head": (layer.rotation_params[0].out_channels, _HEAD_CHANNELS),
            "fixed_shift": (layer.fixed_shift, None),
        }
        for name, (value, published) in checked.items():
            if value != published:
                return f"{name} {value} instead of {published}"
    else:
        return None
    # Arguments that the published layer takes and ignores.
    ignored: dict[str, tuple[object, object]] = {
        "dilation": (layer.dilation, (1, 1)),
        "padding_mode": (layer.padding_mode, "zeros"),
    }
    for name, (value, published) in ignored.items():
        if value != published and set(layer.kernel_size) != {1}:
            return f"{name} {value}, which the published layer ignores"
    if layer.bias is not None and layer.bias.detach().count_nonzero():
        return "a bias that is not 0, which the published layer ignores"
    return None


def _pointwise_entries(prefix: str, weight: Tensor, in_channels: int) -> dict[str, Tensor]:
    """A plain convolution of kernel size 1 as the published code has it: with a head, which is of no effect; here 0."""
    hidden = _HEAD_CHANNELS
    head = {
        "0.weight": weight.new_zeros(hidden, in_channels, 1, 1),
        "0.bias": weight.new_zeros(hidden),
        "1.weight": weight.new_ones(hidden),
        "1.bias": weight.new_zeros(hidden),
        "1.running_mean": weight.new_zeros(hidden),
        "1.running_var": weight.new_ones(hidden),
        "1.num_batches_tracked": weight.new_zeros((), dtype=torch.long),
        "3.weight": weight.new_zeros(4, hidden, 1, 1),
        "3.bias": weight.new_zeros(4),
    }
    return {prefix + WEIGHT: weight.unsqueeze(2)} | {prefix + HEAD + name: value for name, value in head.items()}
