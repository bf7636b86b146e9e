"""The proof that a network of volumes is the network of images that it was made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..layers.conv2d import CrossDConv2d
from .acs import ACSConv3d
from .depth import DepthGeometry
from .modules.copies import copy_with, plain_copy, walk
from .recipes import CONVOLUTIONS_2D, with_center_weight
from .volumes.axes import axes_of, with_axes
from .volumes.mode import VolumeCalls

# Of one module, in float64, relative to the largest element: for an epsilon that it adds to what grows with the number
# of elements, as attention does to the sum by which it divides, and for what it computes in float32 whatever it gets.
_TOLERANCE = 1e-4


def check_volumes(model_2d: nn.Module, model_3d: nn.Module, image: Tensor, *, slices: int | None = None) -> None:
    """Proves that `model_3d`, which `to_3d` made of `model_2d`, sees in each slice of a volume what that sees in it.

    On a volume whose slices all are the image, with weights of the recipe "center", which do not mix slices, every
    module must give in each slice what it gives on the image: pools and means of equal values change nothing. Each is
    judged by itself: what it gives on the image goes on from there, so that small differences of many do not add up.

    Both networks run once as copies, in float64 and evaluation mode; the copy of `model_3d` has the 2D weights in the
    middle of its kernels, whatever its recipe, and those of Cross-D layers unshifted. Where a layer would meet zeros in
    front of or behind the volume, it meets more slices, as zeros there are not what the image has. Strides along the
    depth leave fewer slices, which are equal all the same. First `model_3d` itself runs once on the volume.

    What depends on the number of slices, as a sum over a map or an unbiased variance do, is reported too: such a
    network has another scale on volumes.

    Args:
        model_2d: the network of images; left as it is, as are the generators of random numbers.
        model_3d: what `to_3d` made of it, with any recipe and depth; left as it is.
        image: (B, C, H, W), a batch on which `model_2d` runs; random numbers of a small size will do.
        slices: of the volume (B, C, slices, H, W); default H.

    Raises:
        ValueError: the first module that differs, by name and type, and by how much; a twin that is missing.
        TypeError: what `model_3d` does has no meaning for volumes.
    """
    if not isinstance(image, Tensor) or image.dim() != 4:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image: expected a tensor (B, C, H, W), got {got}")
    volume = image.unsqueeze(2).expand(-1, -1, slices or image.shape[2], -1, -1)
    with torch.no_grad(), torch.random.fork_rng(_devices(model_3d)):
        plain_copy(model_3d).eval()(volume)
        flat, deep = _centered_copies(model_2d, model_3d)
        expected = _recorded(flat, image.double())
        names = {module: name or "model" for name, module in walk(deep)}
        handles = [module.register_forward_hook(_Comparison(name, expected)) for module, name in names.items()]
        with VolumeCalls(endless=True):
            deep(volume.double())
        for handle in handles:
            handle.remove()


def _devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


def _centered_copies(model_2d: nn.Module, model_3d: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copies in evaluation mode, of which the second has the weights of the first in the middle of its kernels."""
    flat = plain_copy(model_2d).eval()
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in walk(flat, whole=CONVOLUTIONS_2D):
        if isinstance(module, CONVOLUTIONS_2D):
            try:
                twin = model_3d.get_submodule(name)
            except AttributeError:
                raise ValueError(f"{name}: expected a twin in model_3d, got none") from None
            if isinstance(module, CrossDConv2d):
                module.fix_shift(module.weights_3d.new_zeros(3))
            twins[twin] = with_center_weight(module, _geometry(twin))
    return flat.double(), copy_with(model_3d, twins).eval().double()


def _geometry(twin: Any) -> DepthGeometry:
    """That of a 3D convolution along the depth."""
    if isinstance(twin, ACSConv3d):
        return DepthGeometry(twin.kernel_size, twin.stride[0], twin.padding, twin.dilation)
    padding = twin.padding if isinstance(twin.padding, str) else twin.padding[0]
    return DepthGeometry(twin.kernel_size[0], twin.stride[0], padding, twin.dilation[0])


def _recorded(model: nn.Module, image: Tensor) -> dict[str, Iterator[list[Tensor]]]:
    """What each module gives on the image, call by call."""
    outputs: dict[str, list[list[Tensor]]] = defaultdict(list)

    def record(name: str) -> Any:
        return lambda module, inputs, output: outputs[name].append([part.clone() for part in _tensors(output)])

    handles = [module.register_forward_hook(record(name or "model")) for name, module in walk(model)]
    model(image)
    for handle in handles:
        handle.remove()
    return {name: iter(calls) for name, calls in outputs.items()}


def _tensors(output: Any) -> list[Tensor]:
    return [part for part in tree_leaves(output) if isinstance(part, Tensor)]


class _Comparison:
    """A hook that compares what a module gives on the volume with what it gave on the image, and goes on with that."""

    def __init__(self, name: str, expected: dict[str, Iterator[list[Tensor]]]) -> None:
        self._name, self._expected = name, expected

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        expected = iter(next(self._expected.get(self._name, iter(())), ()))  # none of a part that the 2D layer lacks
        parts, structure = tree_flatten(output)
        with torch._C.DisableTorchFunction():
            for place, got in enumerate(parts):
                wanted = next(expected, None) if isinstance(got, Tensor) else None
                if wanted is not None:
                    parts[place] = self._compared(module, got, wanted)
        return tree_unflatten(parts, structure)

    def _compared(self, module: nn.Module, got: Tensor, wanted: Tensor) -> Tensor:
        """What stands for `got` from here on."""
        what = f"{self._name} ({type(module).__name__})"
        axes = axes_of(got)
        if axes:
            depth = axes.index("D")
            if (*got.shape[:depth], *got.shape[depth + 1 :]) != (*wanted.shape,):
                raise ValueError(
                    f"{what}: expected slices of the sizes {tuple(wanted.shape)}, which it gives on the image, got "
                    f"{tuple(got.shape)}"
                )
            wanted = wanted.unsqueeze(depth)
        elif got.shape != wanted.shape:
            if self._name == "model":
                raise ValueError(f"{what}: expected {tuple(wanted.shape)}, as on the image, got {tuple(got.shape)}")
            return got  # tokens, of which a volume has more: what is made of them is compared
        difference = (got.double() - wanted.double()).abs().max().item() if got.numel() else 0.0
        scale = wanted.double().abs().max().item() if wanted.numel() else 0.0
        if not difference <= _TOLERANCE * scale:
            raise ValueError(
                f"{what}: expected on a volume of equal slices what it gives on one, got a difference of "
                f"{difference:.3g} where the largest value is {scale:.3g}: it does something else along the depth"
            )
        return with_axes(wanted.expand_as(got).to(got.dtype, copy=True), axes)  # type: ignore[no-any-return]
