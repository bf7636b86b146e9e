"""What this GPU can do at most, measured: a copy through its memory, and multiply-adds in float32."""

from __future__ import annotations

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
    total = _DRY_RUN_BYTES if settings.dry_run else _COPY_BYTES
    size = _DRY_RUN_MATRIX if settings.dry_run else _MATRIX
    source = torch.randn(total // 4, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    candidates = {
        "copy": partial(target.copy_, source),
        "clone": source.clone,
        "product": partial(torch.mm, left, right),
    }
    timings = measure_in_turns(candidates, device, rounds=5, seconds_budget=settings.seconds / 3)
    return {
        "copy_bytes": 2 * total,
        "copy_bytes_per_second": 2 * total / timings["copy"].median,
        "clone_bytes_per_second": 2 * total / timings["clone"].median,
        "float32_multiply_adds_per_second": size**3 / timings["product"].median,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
