"""Many steps with flat memory: no growth of resident memory, file descriptors or threads.

``CROSSD_SOAK=1`` takes 10 000 steps instead of 300.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import crossd_ops
from crossd_ops import CrossDConv2d

STEPS = 10_000 if os.environ.get("CROSSD_SOAK") == "1" else 300
WARM_UP = 60  # allocators keep what the first steps asked for
ALLOWED_GROWTH = 4 << 20  # bytes, whatever the number of steps: 14 KB of each step of 300, 420 bytes of 10 000

pytestmark = [
    pytest.mark.usefixtures("compiled_library"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc"),
]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resources() -> tuple[int, int]:
    """File descriptors and threads of the process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    network(torch.randn(2, 3, 12 + step % 3, 12)).square().mean().backward()
    optimizer.step()


def other_calls(step: int) -> None:
    """What a training step does not reach: other sizes and types, a refused argument, second derivatives."""
    weight = torch.randn(2, 2, 4, 3, 3 + step % 3, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    out = crossd_ops.fourier_shift(weight, shift).square().sum()
    (grad,) = torch.autograd.grad(out, shift, create_graph=True)
    grad.sum().backward()
    with pytest.raises(ValueError, match="shift: expected"):
        crossd_ops.fourier_shift(weight, shift[0])
    with torch.no_grad(), crossd_ops.use_backend("reference"):
        crossd_ops.fourier_shift_slice(weight, shift, dtype=torch.bfloat16)


def test_memory_stays_flat() -> None:
    network = nn.Sequential(CrossDConv2d(3, 8, 3, padding=1), nn.ReLU(), CrossDConv2d(8, 4, 5, padding=2))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    at_start, start = resources(), 0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            gc.collect()
            at_start, start = resources(), resident_bytes()
        training_step(network, optimizer, step)
        other_calls(step)
    gc.collect()
    assert resources() == at_start
    assert resident_bytes() - start < ALLOWED_GROWTH
