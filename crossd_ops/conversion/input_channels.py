"""Networks for another number of input channels: colour to grey, grey to colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from ..operators.checks import positive_int
from .layers_2d import WeightStandardization, timm_forward
from .modules.copies import check_ties, copy_with, matching, walk
from .modules.parameters import refuse_computed

_CROSSD = (CrossDConv2d, CrossDConv3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_CROSSD)


def adapt_input_channels(model: nn.Module, channels: int, *, names: str | Iterable[str] | None = None) -> nn.Module:
    """A copy of a network for inputs of `channels` channels, with the same output for replicated ones.

    A grey image repeated over the new channels gives what it gave repeated over the old ones. With fewer channels each
    new one gets the sum of the weights of old ones (3 to 1: the sum of all three), with more the weights are dealt out
    in turn and divided by the number of their copies (1 to 3: a third each; 3 to 6: two halves of each). Going up by
    whole multiples and back restores the weights.

    Of a Cross-D layer the head is adapted too, so that it predicts the same shift. A standardised weight
    (`WeightStandardization`, timm's ScaledStdConv2d) keeps its output through its gain.

    Args:
        model: any module; left as it is.
        channels: the new number of input channels, at least 1.
        names: the convolutions that see the input, as names or `fnmatch` patterns; default the first convolution in the
            order of the modules. Networks with several need it, as the residual units of MONAI's UNet do
            (`["model.0.conv.unit0.conv", "model.0.residual"]`): a forgotten one refuses the new input.

    Returns:
        The new model. `in_channels` of the convolutions follows; other attributes of the model that count the
        channels, or code that uses them one by one, are not known here.

    Raises:
        TypeError, ValueError: no such convolution; several with different numbers of channels; one with groups, lazy or
            with a weight that is computed or tied. Also torchvision's `transform_input`, which reads three channels.
    """
    channels = positive_int("channels", channels)
    found = _first_convolutions(model, names)
    counts = {module.in_channels for module in found.values()}
    if len(counts) > 1:
        raise ValueError(f"names: expected convolutions with the same in_channels, got {sorted(counts)}")
    if channels not in counts and getattr(model, "transform_input", False):
        raise ValueError("model.transform_input: expected False, got True, which uses three channels by their numbers")
    for name, module in found.items():
        _refuse_unknown(name or "model", module)
    check_ties(model, found.values())
    result = copy_with(model, {})
    for name in found:
        _adapt(result.get_submodule(name), channels)
    return result


def _first_convolutions(model: nn.Module, names: str | Iterable[str] | None) -> dict[str, Any]:
    convolutions = {name: module for name, module in walk(model, whole=_CROSSD) if isinstance(module, _CONVOLUTIONS)}
    if not convolutions:
        raise ValueError("model: expected a convolution, got none")
    if names is None:
        return dict([*convolutions.items()][:1])
    modules = matching(model, names, _CONVOLUTIONS, "names")
    return {name: module for name, module in convolutions.items() if module in modules}


def _refuse_unknown(name: str, module: Any) -> None:
    if module.groups != 1:
        raise ValueError(f"{name}: expected groups=1, got {module.groups}, which bind inputs to outputs")
    if isinstance(module, _CROSSD):
        refuse_computed(name, module, "weights_3d")
        refuse_computed(f"{name}.rotation_params.0", module.rotation_params[0], "weight")
    else:
        refuse_computed(name, module, "weight")
    if timm_forward(module) in ("StdConv2d", "StdConv2dSame"):
        raise ValueError(
            f"{name}: expected a standardised weight with a gain, got {type(module).__name__}, which takes every scale "
            "away: to_crossd the model first, whose layers can have a gain"
        )


def _standardization_of(module: Any) -> WeightStandardization | None:
    """That of a Cross-D layer, where it is the only parametrisation of the weight."""
    steps = module.parametrizations["weights_3d"] if parametrize.is_parametrized(module, "weights_3d") else []
    return steps[0] if len(steps) == 1 and isinstance(steps[0], WeightStandardization) else None


@torch.no_grad()
def _adapt(module: Any, channels: int) -> None:
    """Gives a convolution the new number of input channels, in place."""
    if module.in_channels == channels:
        return
    standardization = _standardization_of(module)
    if standardization is not None:
        weight = _dealt(module.weights_3d, channels)
        gain = _gain(weight, standardization.eps, standardization.scale)
        trained = standardization.gain is not None and standardization.gain.requires_grad
        standardization.gain = nn.Parameter(gain, requires_grad=trained)
        steps = module.parametrizations["weights_3d"]
        steps.original = nn.Parameter(weight, requires_grad=steps.original.requires_grad)
    elif timm_forward(module) in ("ScaledStdConv2d", "ScaledStdConv2dSame"):
        weight = _dealt(WeightStandardization(module.eps, module.gain, module.scale)(module.weight), channels)
        module.gain.copy_(_gain(weight, module.eps, module.scale).reshape(module.gain.shape))
        module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    else:
        name = "weights_3d" if isinstance(module, _CROSSD) else "weight"
        old = getattr(module, name)
        setattr(module, name, nn.Parameter(_dealt(old, channels), requires_grad=old.requires_grad))
    if isinstance(module, _CROSSD):
        _adapt(module.rotation_params[0], channels)
    module.in_channels = channels


def _dealt(weight: Tensor, channels: int) -> Tensor:
    """`weight` (O, C, ...) for another C, with the same sum over it."""
    old = weight.shape[1]
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # sums of half types would be rounded twice
    if channels < old:
        target = torch.arange(old, device=weight.device) % channels
        result = wide.new_zeros(weight.shape[0], channels, *weight.shape[2:]).index_add_(1, target, wide)
    else:
        source = torch.arange(channels, device=weight.device) % old
        copies = torch.bincount(source)[source].reshape(-1, *[1] * (weight.dim() - 2))
        result = wide[:, source] / copies
    return result.to(weight.dtype)


def _gain(weight: Tensor, eps: float, scale: float) -> Tensor:
    """The gain with which a standardised `weight`, whose means are 0 already, is itself again: (O,)."""
    return (weight.flatten(1).var(1, unbiased=False) + eps).sqrt() / scale
