"""What outlives a call is a plain tensor, whatever class of tensor the data came in."""

from __future__ import annotations

from torch import Tensor


def plain_tensor(tensor: Tensor) -> Tensor:
    """`tensor` as a `torch.Tensor`: its numbers, without what a subclass, such as MONAI's MetaTensor, knows of them.

    For everything that a call leaves behind in a layer, a network or a file: file names of images have no place there,
    and a file would not load without the package of the subclass. Classes that say how the numbers lie in memory, such
    as DTensor, are kept; they have a `__torch_dispatch__` of their own.
    """
    kind = type(tensor)
    if kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)
