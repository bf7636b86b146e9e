"""The third axis of a converted layer: what a user asks of it, and what it gets otherwise."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..operators.checks import int_of

DepthOptions = Mapping[str, Mapping[str, int]]

_KNOWN = ("kernel", "stride", "padding", "dilation", "size", "scale")


class DepthRequests:
    """What is asked of the depth axis of each layer, by name.

    Args:
        options: pattern of names (`fnmatch`) -> any of kernel, stride, padding, dilation, size, scale -> number; of
            several patterns that match, the first counts.
        names: of the layers that have a depth.

    Raises:
        ValueError: an unknown option, a number that is none, or a pattern that matches no layer.
    """

    def __init__(self, options: DepthOptions | None, names: Iterable[str]) -> None:
        self._options: dict[str, Mapping[str, int]] = {}
        names = [*names]
        for pattern, request in (options or {}).items():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"depth: expected patterns that match a layer with a depth, got {pattern!r}")
            numbers: dict[str, int] = {}
            for option, value in request.items():
                number: int | None = int_of(value)
                if option not in _KNOWN or number is None or number < (0 if option == "padding" else 1):
                    raise ValueError(
                        f"depth[{pattern!r}]: expected numbers for {', '.join(_KNOWN)}, got {option}={value!r}"
                    )
                numbers[option] = number
            self._options[pattern] = numbers

    def of(self, name: str, kind: str, allowed: Iterable[str]) -> Mapping[str, int]:
        """The request for layer `name` of type `kind`, which knows the options `allowed`; empty where there is none."""
        for pattern, request in self._options.items():
            if fnmatch.fnmatchcase(name, pattern):
                if unknown := [option for option in request if option not in allowed]:
                    raise ValueError(
                        f"depth[{pattern!r}]: expected {', '.join(allowed) or 'nothing'} for {name} ({kind}), got "
                        f"{', '.join(unknown)}"
                    )
                return request
        return {}


class DepthGeometry(NamedTuple):
    """A convolution along the depth. `padding` is a string where the 2D convolution has one."""

    kernel: int
    stride: int
    padding: int | str
    dilation: int


def depth_geometry(like: DepthGeometry, request: Mapping[str, int]) -> DepthGeometry:
    """`like`, which is that of one of the other axes, with what is requested instead.

    A kernel that gets shorter needs less padding to keep the size, so it gets no more than that.
    """
    if isinstance(like.padding, str) and "padding" in request:
        raise ValueError(f"depth: expected no padding beside padding={like.padding!r}, got {request['padding']}")
    kernel, dilation = request.get("kernel", like.kernel), request.get("dilation", like.dilation)
    padding = like.padding
    if "padding" in request:
        padding = request["padding"]
    elif "kernel" in request and not isinstance(padding, str):
        padding = min(padding, dilation * (kernel - 1) // 2)
    return DepthGeometry(kernel, request.get("stride", like.stride), padding, dilation)


class VolumePadding(tuple[int, ...]):
    """Amounts of padding of all six sides of a volume: six that code for images gives are of channels, too."""


def adaptive_depth(height: int | None) -> int | None:
    """The slices of an adaptive pool: one, where the height is a number.

    What follows was made for height x width features: more of them would not fit its linear layers.
    """
    return height and 1
