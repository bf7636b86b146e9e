"""Problems for hypothesis to try: sizes, types, layouts, slices. The repr of each is a line of Python that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels last", "permuted", "sliced", "expanded")
LARGEST_KERNEL = 15

# The same examples in every run, so that a failure is one of the code. deadline: machines that run tests are shared.
settings.register_profile("crossd_ops", derandomize=True, deadline=None, database=None, print_blob=False)
settings.load_profile("crossd_ops")


@dataclass(frozen=True)
class Problem:
    """A weight (out_channels, in_channels, *kernel), shifts of `samples` samples, and a slice of the shifted weight.

    `index` None: no slice but the whole weight, for which `dim` is 0. Values are those of `seed`.
    """

    kernel: tuple[int, int, int]
    samples: int = 2
    out_channels: int = 3
    in_channels: int = 2
    dtype: torch.dtype = torch.float64
    layout: str = "contiguous"
    dim: int = 0
    index: int | None = None
    seed: int = 0

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints an example with: the repr, in one line."""
        printer.text(repr(self))

    def weight(self, seed: int = 0) -> Tensor:
        """(O, C, Kd, Kh, Kw), standard normal; another seed gives other values."""
        shape = (self.out_channels, self.in_channels, *self.kernel)
        return laid_out(shape, self.layout, self.dtype, self._values(1 + seed))

    def shift(self, seed: int = 0) -> Tensor:
        """(B, 3), within a few kernel elements."""
        shift = 3 * torch.randn(self.samples, 3, dtype=torch.float64, generator=self._values(1001 + seed))
        return shift.to(torch.promote_types(self.dtype, torch.float32))

    def _values(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 10_000 + seed)


def laid_out(shape: tuple[int, ...], layout: str, dtype: torch.dtype, values: torch.Generator) -> Tensor:
    """Standard normal numbers of a shape, in one of the layouts."""

    def randn(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=dtype, generator=values)

    if layout == "permuted":
        return randn(*shape[::-1]).permute(*range(len(shape) - 1, -1, -1))
    if layout == "sliced":
        return randn(*(size + 1 for size in shape))[tuple(slice(1, None) for _ in shape)]
    if layout == "expanded":
        return randn(1, *shape[1:]).expand(shape)
    if layout == "channels last":
        return randn(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return randn(*shape)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    largest: int = LARGEST_KERNEL,
    odd: bool = False,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    whole: bool = False,
    most: int = 5,
) -> Problem:
    """Problems with kernel sizes up to `largest`, odd ones alone if asked; `whole`: without a slice.

    Half of the kernels are cubic: those of 3, 5 and 7 have code of their own.
    """
    size = st.integers(0, (largest - 1) // 2).map(lambda half: 2 * half + 1) if odd else st.integers(1, largest)
    cubic = draw(st.booleans())
    sizes = (draw(size),) * 3 if cubic else (draw(size), draw(size), draw(size))
    # A large kernel takes one pair and one sample: a few ten thousand elements at most.
    count = st.integers(1, most if sizes[0] * sizes[1] * sizes[2] <= 400 else 1)
    dim = 0 if whole else draw(st.integers(0, 2))
    index = None if whole else draw(st.integers(0, sizes[dim] - 1))
    return Problem(
        sizes, draw(count), draw(count), draw(count), draw(st.sampled_from(dtypes)), draw(st.sampled_from(LAYOUTS)),
        dim, index, draw(st.integers(0, 99)),
    )  # fmt: skip
