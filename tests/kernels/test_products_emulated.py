"""Products of matrices in tiles, as csrc/convolution/methods/products.h reads them, in the emulator."""

from __future__ import annotations

import pytest
import torch
from emulator.build import why_not
from emulator.tiles_harness import EmulatedTiles
from emulator.tiles_kernels_harness import EmulatedTilesKernels
from torch import Tensor


def of_rows(rows: int, columns: int) -> Tensor:
    """Matrices whose rows are apart, as those of columns may be."""
    return torch.randn(2, rows, columns + 8)[..., :columns]


def image(matrices: Tensor) -> Tensor:
    return matrices.mT.unsqueeze(2)


@pytest.mark.parametrize("by", ["convolve", "input_gradient", "gradient"])
def test_one_direction_reads_both_matrices_as_they_lie(by: str) -> None:
    """(70, 20) by (20, 36): more than a tile, and no whole one."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    if by == "convolve":
        a, b = of_rows(70, 20), torch.randn(2, 36, 20).mT
        found = EmulatedTiles().convolve(image(a), b.mT[..., None, None])[:, :, 0].mT
    elif by == "input_gradient":
        a, b = of_rows(70, 20), torch.randn(2, 20, 36)
        found = EmulatedTiles().input_gradient(image(a), b[..., None, None], (1, 70))[:, :, 0].mT
    else:
        a, b = of_rows(20, 72).mT, of_rows(20, 36)
        found = EmulatedTilesKernels().gradient(image(a.mT), image(b), (1, 1))[..., 0, 0]
    torch.testing.assert_close(found, a @ b, rtol=2**-8, atol=2e-2)
