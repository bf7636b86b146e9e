"""What this GPU can do at most, measured: a copy through its memory, and multiply-adds in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.parts import Settings
from benchmarks.timing import measure_in_turns

_COPY_BYTES = 2**30
_MATRIX = 8192
_DRY_RUN_BYTES, _DRY_RUN_MATRIX = 2**20, 128


def bandwidth(settings: Settings) -> dict[str, Any]:
    """Bytes read and written per second by a large copy; multiply-adds per second by a product of random matrices."""
    device = torch.device(settings.device)
    of_size = sizes(settings.dry_run)
    timings = measure_in_turns(candidates(of_size, device), device, rounds=5, seconds_budget=settings.seconds / 3)
    return rates(of_size, {name: timing.median for name, timing in timings.items()})


def sizes(dry_run: bool) -> tuple[int, int]:
    """Bytes of the copy; rows and columns of the matrices."""
    return (_DRY_RUN_BYTES, _DRY_RUN_MATRIX) if dry_run else (_COPY_BYTES, _MATRIX)


def candidates(of_size: tuple[int, int], device: torch.device) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    total, size = of_size
    source = torch.randn(total // 4, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    return {
        "copy": partial(target.copy_, source),
        "clone": source.clone,
        "product": partial(torch.mm, left, right),
    }


def rates(of_size: tuple[int, int], seconds: dict[str, float]) -> dict[str, Any]:
    """What the seconds of the candidates tell."""
    total, size = of_size
    return {
        "copy_bytes": 2 * total,
        "copy_bytes_per_second": 2 * total / seconds["copy"],
        "clone_bytes_per_second": 2 * total / seconds["clone"],
        "float32_multiply_adds_per_second": size**3 / seconds["product"],
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
