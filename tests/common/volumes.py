"""Volumes for the tests of the converters."""

from __future__ import annotations

from torch import Tensor


def constant(input: Tensor, depth: int) -> Tensor:
    """The images (B, C, H, W), repeated along the depth of volumes."""
    return input.unsqueeze(2).expand(-1, -1, depth, -1, -1)
