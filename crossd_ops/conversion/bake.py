"""From a Cross-D network to a plain one: the rotation frozen at its mean, every layer an ordinary convolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import fourier_shift, fourier_shift_slice
from ..layers.conv3d import CrossDConv3d
from .calibration import crossd_layers, mean_shifts
from .layers_2d import CrossDConv2dSame
from .modules.copies import check_copy, copy_with
from .modules.parameters import own_parameter, present_value


def bake(model: nn.Module, batches: Iterable[Any] | Mapping[str, Tensor], *, progress: bool = True) -> nn.Module:
    """A plain copy of a Cross-D network for inference, in which every layer has the mean of its shifts on data.

    The weight of each layer is the slice of its 3D weight shifted by the mean over all samples in `batches` (in
    `CrossDConv3d` the whole shifted weight), so the copy computes what the model computes with that `fix_shift`, to
    rounding; layers of kernel size 1 lose nothing. Nothing in it is of this package: it is saved, loaded, exported and
    run where crossd_ops is not installed. Parametrisations of weights and biases, such as spectral_norm, are not kept:
    their values in evaluation are.

    Args:
        model: any module with Cross-D convolutions; left as it is.
        batches: any iterable of batches, as for `calibrate`; or what `calibrate` returned.
        progress: show a bar while calibrating, where tqdm is installed.

    Returns:
        The new model: `nn.Conv2d` and `nn.Conv3d` with the names of the layers they replace, their device, dtype, bias,
        training and requires_grad flags, hooks, and what users put on them. A `CrossDConv2dSame` with a stride becomes
        a `torch.fx.GraphModule` of the padding and an `nn.Conv2d`. A layer that no batch reached gets the shift at the
        angle 0, with a warning.

    Raises:
        TypeError, ValueError: as for `calibrate`; shifts that are NaN or infinite; a layer, or a module with a method
            that was set on it, that `to_crossd` would refuse; a weight or bias that a hook computes (pruning), or one
            that is another whenever it is read.
    """
    layers = crossd_layers(model)
    check_copy(model, {*layers.values()})
    weights = {name: present_value(name or "model", layer, "weights_3d") for name, layer in layers.items()}
    biases = {name: present_value(name or "model", layer, "bias") for name, layer in layers.items()}
    shifts = mean_shifts(model, batches, progress=progress)
    return copy_with(
        model, {layer: _plain(layer, weights[name], biases[name], shifts[name]) for name, layer in layers.items()}
    )


def _plain(layer: Any, weight: Any, bias: Tensor | None, shift: Tensor) -> nn.Module:
    """`layer` with `shift` (3,) for every sample, as a module of torch."""
    with torch.no_grad():
        moved = shift[None].to(weight.device)
        if isinstance(layer, CrossDConv3d):
            kernel = fourier_shift(weight, moved)[0].movedim(2 + layer.dim, 2).contiguous()
        else:
            kernel = fourier_shift_slice(weight, moved, dim=layer.dim, index=layer.index)[0]
    dynamic = isinstance(layer, CrossDConv2dSame) and layer.stride != (1, 1)
    kind: Any = nn.Conv3d if isinstance(layer, CrossDConv3d) else nn.Conv2d
    convolution = kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        0 if dynamic else layer.padding,
        layer.dilation,
        layer.groups,
        bias=bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    convolution.weight = own_parameter(kernel, weight.requires_grad)
    if bias is not None:
        convolution.bias = own_parameter(bias, bias.requires_grad)
    plain: nn.Module = _with_padding_of(layer, convolution) if dynamic else convolution
    return plain.train(layer.training)


def _with_padding_of(layer: CrossDConv2dSame, convolution: nn.Conv2d) -> nn.Module:
    """`convolution` after the padding of `layer`, which depends on the size of the input.

    A traced module: it is saved as its code, which names torch alone.
    """
    traced = torch.fx.symbolic_trace(_Padded(layer, convolution))
    for node in traced.graph.nodes:
        node.type = None  # an annotation that is a string, as in this file, cannot be saved
    traced.recompile()
    return traced


class _Padded(nn.Module):
    def __init__(self, layer: CrossDConv2dSame, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self._pad = layer._padded  # a bound method, not a module: the result has no parameters of `layer`

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.convolution(self._pad(input)[0])
        return output
