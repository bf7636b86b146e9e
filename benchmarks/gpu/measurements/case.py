"""What a row of operators is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu.measurements.measure import network_layout


@dataclass(frozen=True)
class Case:
    """An operator on one shape and type. The bytes and multiply-adds are the least that any implementation needs.

    `inputs` are those whose gradients a network needs. `other_work`: candidates that do less, for scale, and their
    inputs.
    """

    operator: str
    shape: str
    dtype: str
    inputs: tuple[Tensor, ...]
    candidates: Mapping[str, Callable[[], Tensor]]
    floor_bytes: dict[str, int] = field(default_factory=dict)  # by pass
    multiply_adds: dict[str, int] = field(default_factory=dict)
    other_work: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    cudnn_benchmark: bool = False  # whether cuDNN chooses its convolutions by measurement


def image_of(batch: int, channels: int, pixels: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random, as it lies in a network of this type."""
    return (
        torch.randn(batch, channels, *pixels, device=device).to(dtype).contiguous(memory_format=network_layout(dtype))
    )


def name_of(dtype: torch.dtype) -> str:
    """As a row tells it."""
    return str(dtype).removeprefix("torch.")
