"""Which axis of a tensor is which, where the code of a network takes its volumes for images.

Axes have letters: B batch, C channels, D depth, H height, W width, X another. Code for images counts them without D:
its axis 2 of a volume BCDHW is H. D stands in front of H always, and what is done to H is done to both.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

VOLUME = "BCDHW"
_ATTRIBUTE = "_volume_axes"


class Refusal(Exception):
    """A call that has no meaning for volumes. The module that made it makes a TypeError of it, with its name.

    It is none itself, as operators take a TypeError for their not being there.
    """


def axes_of(value: Any) -> str:
    """The letters of a tensor's axes; "" for what has no depth, of which code for images sees all axes there are."""
    if not isinstance(value, Tensor):
        return ""
    axes: str | None = getattr(value, _ATTRIBUTE, None)
    if axes is not None:
        return axes
    # A parameter of five axes is the weight of a convolution.
    return VOLUME if value.dim() == 5 and type(value) is not nn.Parameter else ""


def with_axes(value: Any, axes: str) -> Any:
    """`value`, a tensor, or a tuple or list of tensors with the same axes, known by these letters from now on."""
    if isinstance(value, tuple | list):
        for part in value:
            with_axes(part, axes)
    elif isinstance(value, Tensor):
        axes = axes if "D" in axes and len(axes) == value.dim() else ""
        axes = VOLUME if len(axes) == 5 and axes.endswith("DHW") else axes
        if axes != axes_of(value):
            setattr(value, _ATTRIBUTE, axes)
    return value


def flat_axes(axes: str) -> str:
    """The letters as code for images counts them."""
    return axes.replace("D", "")


def same_axes(axes: str, own: str) -> bool:
    """Whether a map of the axes `own` is broadcast against one of `axes` with depth, height and width as they are."""
    return _others_alike(axes).endswith(_others_alike(own))


def _others_alike(axes: str) -> str:
    return axes.replace("B", "X").replace("C", "X")


def flat_index(axes: str, dim: Any, extra: int = 0) -> int:
    """Which of the flat axes `dim` is, as a number from 0; `extra` more than there are may be meant (unsqueeze).

    Raises:
        Refusal: there is none.
    """
    count = len(flat_axes(axes)) + extra
    if isinstance(dim, bool) or not isinstance(dim, int) or not -count <= dim < count:
        raise Refusal(f"axis {dim!r} of maps ({', '.join(flat_axes(axes))})")
    return dim % count


def places_of(axes: str, flat: int) -> list[int]:
    """The axes of the volume that one of the flat ones stands for: two for the height."""
    place = flat if flat < axes.index("D") else flat + 1
    return [place - 1, place] if axes[place] == "H" else [place]


def places(axes: str, dims: Any) -> list[int]:
    """The axes of the volume for a number or numbers of flat axes."""
    several = dims if isinstance(dims, tuple | list) else (dims,)
    return [place for dim in several for place in places_of(axes, flat_index(axes, dim))]


def one_place(axes: str, dim: Any) -> int:
    """The axis of the volume for a flat one that is not the height.

    Raises:
        Refusal: it is the height, along which this call would need to know what to do with the depth.
    """
    found = places(axes, dim)
    if len(found) > 1:
        raise Refusal("along the height, which says nothing of the depth")
    return found[0]


def without(axes: str, gone: list[int]) -> str:
    """The letters that are left when these axes of a volume are gone."""
    return "".join(letter for place, letter in enumerate(axes) if place not in gone)
