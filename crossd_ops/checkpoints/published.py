"""Checkpoints of the published code (arXiv 2411.02441): loaded strictly from each layout, saved in the present one.

    present layout   weights_3d (O, C, K, K, K); rotation_params of a 1x1 convolution to 16 channels, a batch
                     normalisation and a 1x1 convolution to 4 channels
    early layout     weights_fft, complex (O, C, K, K, K); rotation_params of a 1x1 convolution to 3 channels and a
                     batch normalisation

Both without a bias, with every other entry under the model's own names, with or without "module." in front, which
DistributedDataParallel puts there, bare or under the key "model".
"""

from __future__ import annotations

import argparse
import os
import pickle
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conversion.modules.copies import copy_with, walk
from ..conversion.modules.parameters import own_parameter, with_bias_of
from ..layers.conv2d import CrossDConv2d
from ..layers.early import CrossDConv2dEarly
from .layout import EARLY_WEIGHT, WEIGHT, plan_loading, published_state

_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class CheckpointReport:
    """What `load_published` did with every entry; `str()` of it is for people.

    Attributes:
        layout: "present" or "early", see the module.
        matched: entries that were loaded as they are.
        converted: entries of the model, and from what they were made.
        dropped: entries of the checkpoint that were left out, and why.
        kept: entries of the model that have the value they had before, and why.
    """

    layout: str
    matched: tuple[str, ...]
    converted: Mapping[str, str]
    dropped: Mapping[str, str]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"published checkpoint of the {self.layout} layout: {len(self.matched)} entries matched"]
        for title, entries in (("converted", self.converted), ("dropped", self.dropped), ("kept", self.kept)):
            reasons: dict[str, list[str]] = {}
            for name, reason in entries.items():
                reasons.setdefault(reason, []).append(name)
            for reason, names in reasons.items():
                lines.append(f"  {len(names)} {title} ({reason}): {', '.join(names)}")
        return "\n".join(lines)


def load_published(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> CheckpointReport:
    """Loads a published checkpoint into a model with the same names, whole or not at all.

    Files are read with `torch.load(weights_only=True)`: tensors and plain values, no code. (`argparse.Namespace`, in
    which training scripts keep their options, is let through as plain values.)

    - In the early layout the weight is the real part of the inverse Fourier transform of `weights_fft`: for odd sizes
      exactly the weight that the early layer shifts. Its head is another function: layers of `CrossDConv2dEarly` (see
      `with_early_heads`) take it over, others keep the head they have, which the report says.
    - Where the model has a plain `nn.Conv2d` of kernel size 1, it takes the weight; the head, of no effect there, is
      dropped.
    - Biases, which the published layer has not, become 0.

    Args:
        model: with `CrossDConv2d` under the names of the checkpoint, also inside DistributedDataParallel, DataParallel
            or torch.compile. Changed only if everything fits.
        source: a file, or what `torch.load` gave: a state, or a dictionary that has it under "model".

    Returns:
        What was matched, converted, dropped and kept.

    Raises:
        ValueError: a file that does not read, or holds more than weights; no Cross-D weights in it; entries missing,
            unexpected or of another size, all of which are named; an early layer of even size with an imaginary part.
        TypeError, OSError: `source` is of another type; the file cannot be opened.
    """
    inner = _unwrapped(model)
    content = source if isinstance(source, Mapping) else _read(source)
    state, others = _state(content)
    names = {key.rpartition(".")[2] for key in state}
    if not names & {WEIGHT, EARLY_WEIGHT}:
        raise ValueError(
            f"source: expected entries {WEIGHT} or {EARLY_WEIGHT}, got {len(state)} entries without, such as "
            f"{', '.join([*state][:3]) or 'none'}; is it a plain network's checkpoint?"
        )
    plan = plan_loading(inner, state)
    inner.load_state_dict(plan.state)
    dropped = plan.dropped | dict.fromkeys(others, "not the model's state")
    layout = "early" if EARLY_WEIGHT in names else "present"
    return CheckpointReport(layout, tuple(plan.matched), plan.converted, dropped, plan.kept)


def save_published(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Saves a model in the published (present) layout: {"model": state} without biases, tensors on the CPU.

    Plain `nn.Conv2d` of kernel size 1 are written as the published code has them, `weights_3d` and a head of zeros,
    which has no effect. A file that is there, or that a link leads to, is replaced once the new one is complete.

    Args:
        model: a network of `CrossDConv2d`, also inside DistributedDataParallel, DataParallel or torch.compile.
        path: of the file.

    Raises:
        ValueError: layers that the published one cannot stand for (a bias other than 0, dilation, another slice, plain
            convolutions of larger kernels, ...): all are named with the reason, and nothing is written.
        TypeError: `path` is of another type.
        OSError: the file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected a path, got {type(path).__name__}")
    inner = _unwrapped(model)
    if not any(isinstance(module, CrossDConv2d) for _, module in walk(inner)):
        raise ValueError(f"model: expected CrossDConv2d layers in it, got {type(inner).__name__} with none")
    state = published_state(inner)
    path = Path(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"path: expected a file, got the folder {path}")
    if os.path.lexists(path) and not path.is_file():
        raise OSError(f"path: expected a file, got {path}, which is a device, a pipe, or a link that leads to itself")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in a folder that exists, got {path}")
    unfinished = path.with_name(f"{uuid.uuid4().hex}.unfinished")  # beside the name the ending may be too long
    try:
        with open(unfinished, "wb") as file:  # of a path that cannot be written torch makes a RuntimeError
            torch.save({"model": state}, file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def with_early_heads(model: nn.Module) -> nn.Module:
    """A copy of a network with `CrossDConv2dEarly` in place of `CrossDConv2d`, for checkpoints of the early layout.

    Weights, biases, fixed shifts, flags, hooks and what users put on layers are kept; the heads start anew. Layers of
    kernel size 1 included.

    Raises:
        TypeError, ValueError: `model` is no module, has no `CrossDConv2d`, or has subclasses of it or parametrised
            weights.
    """
    layers = {name: module for name, module in walk(model) if isinstance(module, CrossDConv2d)}
    if not layers:
        raise ValueError(f"model: expected CrossDConv2d layers in it, got {type(model).__name__} with none")
    unknown = [
        name for name, layer in layers.items() if type(layer) is not CrossDConv2d or WEIGHT not in layer._parameters
    ]
    if unknown:
        raise ValueError(f"model: expected plain CrossDConv2d layers, got others: {', '.join(unknown)}")
    return copy_with(model, {layer: _early_twin(layer) for layer in layers.values()})


def _early_twin(layer: CrossDConv2d) -> nn.Module:
    twin = CrossDConv2dEarly(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
        layer.weights_3d.device,
        layer.weights_3d.dtype,
        dim=layer.dim,
        index=layer.index,
        depth=layer.depth,
    )
    twin.weights_3d = own_parameter(layer.weights_3d, layer.weights_3d.requires_grad)
    twin.fix_shift(layer.fixed_shift)
    return with_bias_of(twin.train(layer.training), layer)


def _read(path: str | os.PathLike[str]) -> Any:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"source: expected a path or a dictionary, got {type(path).__name__}")
    file = open(path, "rb")  # noqa: SIM115 (an OSError of the reader is damage, one of opening is not)
    try:
        # Plain attributes, set without a call: the class is harmless.
        with file, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may break the reader anywhere
        _, refused, detail = str(error).partition("WeightsUnpickler error: ")
        # An instruction that pickle does not have ("operand") is damage, or another format.
        if isinstance(error, pickle.UnpicklingError) and refused and "operand" not in detail:
            # torch's own text goes on with advice to load it all the same.
            detail = detail.partition("\n")[0].partition(" was not an allowed")[0]
            raise ValueError(
                f"{os.fspath(path)}: expected tensors and plain values alone, got objects whose loading could run "
                f"code; nothing of it was run ({detail})"
            ) from error
        raise ValueError(
            f"{os.fspath(path)}: expected a checkpoint, got a file that is truncated, damaged or of another format "
            f"({type(error).__name__})"
        ) from error


def _state(content: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state without the prefixes of wrappers, and the names of what stands beside it."""
    if not isinstance(content, Mapping):
        raise ValueError(f"source: expected a dictionary, got {type(content).__name__}")
    others: list[str] = []
    if isinstance(content.get("model"), Mapping):
        others = [str(key) for key in content if key != "model"]
        content = content["model"]
    strange = [str(key) for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"source: expected a state, names and tensors, bare or under the key 'model', got other things under "
            f"{', '.join(strange[:5])}"
        )
    state = dict(content)
    while found := [prefix for prefix in _WRAPPERS if state and all(key.startswith(prefix) for key in state)]:
        state = {key.removeprefix(found[0]): value for key, value in state.items()}
    return state, others


def _unwrapped(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model
