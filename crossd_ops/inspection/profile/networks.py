"""The network to profile: by a name of torchvision or timm, by a function of the user's, or one layer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import nn

from ...conversion import to_3d, to_crossd
from ...layers.common import CrossDLayer
from ...layers.conv2d import CrossDConv2d
from ...layers.conv3d import CrossDConv3d
from ...operators.checks import ints_of


def network_of(name: str, axes: int) -> nn.Module:
    """A network with Cross-D convolutions for images (2 axes) or volumes (3).

    `name`: "package.module:function", which is called without arguments and returns a module, or a network of
    torchvision or timm. One that has no Cross-D convolutions is converted by `to_crossd`, a 2D one for volumes by
    `to_3d` with the recipe "crossd". Raises ValueError where nothing has that name.
    """
    model = _called(name) if ":" in name else _of_a_library(name)
    if not any(isinstance(module, CrossDLayer) for module in model.modules()):
        model = to_crossd(model)
    volumes = any(isinstance(module, CrossDConv3d | nn.Conv3d) for module in model.modules())
    return to_3d(model, "crossd") if axes == 3 and not volumes else model


def _called(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network: expected package.module:function, got {name!r}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"network: expected a module from {name}(), got {type(model).__name__}")
    return model


def _of_a_library(name: str) -> nn.Module:
    tried = []
    for library in ("torchvision.models", "timm"):
        try:
            package = importlib.import_module(library)
        except Exception as error:  # not only ImportError: one built for another torch fails in ways of its own
            tried.append(f"{library} does not import ({error})")
            continue
        names = package.list_models()
        if name in names:
            options = {"weights": None} if library == "torchvision.models" else {"pretrained": False}
            build = package.get_model if library == "torchvision.models" else package.create_model
            model: nn.Module = build(name, **options)
            return model
        tried.append(f"{library} has {len(names)} others")
    raise ValueError(
        f"network: expected a name of torchvision or timm, or package.module:function, got {name!r}: {', '.join(tried)}"
    )


def layer_of(numbers: Sequence[int], axes: int) -> nn.Module:
    """One layer: in channels, out channels, kernel size; then stride and groups, 1 each where they are not given."""
    if len(numbers) not in (3, 4, 5) or ints_of(tuple(numbers), len(numbers)) is None or min(numbers) < 1:
        raise ValueError(f"--layer: expected IN,OUT,KERNEL[,STRIDE[,GROUPS]], got {','.join(map(str, numbers))}")
    in_channels, out_channels, kernel, stride, groups = *numbers, *(1,) * (5 - len(numbers))
    kind = CrossDConv2d if axes == 2 else CrossDConv3d
    return nn.Sequential(kind(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False))
