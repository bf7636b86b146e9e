"""What it costs that a network of volumes sees every call of its own code, in microseconds of the calling thread.

python -m benchmarks.networks.volume_calls [--repeat 15]

Calls on a volume so small that there is next to nothing to compute: what passes, what is made for volumes, and a shape.
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable

import torch
from torch import Tensor

from crossd_ops.conversion.volumes.mode import VolumeCalls

_CALLS = 1000  # of one measurement
_MEASURED: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]] = {
    "torch.relu(x)": (torch.relu, torch.relu),
    "x + x": (lambda x: x + x, lambda x: x + x),
    "x.mean((2, 3)), of a volume x.mean((2, 3, 4))": (lambda x: x.mean((2, 3, 4)), lambda x: x.mean((2, 3))),
    "x[:, :1]": (lambda x: x[:, :1], lambda x: x[:, :1]),
    "x.shape": (lambda x: x.shape, lambda x: x.shape),
}


def measure(repeat: int) -> dict[str, tuple[float, float]]:
    """Microseconds by call: as torch makes it, and as code for images in the mode; the least of `repeat` rounds."""
    volume = torch.randn(1, 2, 2, 2, 2)
    result: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for name, (plain, flat) in _MEASURED.items():
            before = _least(lambda plain=plain: plain(volume), repeat)  # type: ignore[misc]
            with VolumeCalls():
                seen = _least(lambda flat=flat: flat(volume), repeat)  # type: ignore[misc]
            result[name] = before, seen
    return result


def _least(call: Callable[[], object], repeat: int) -> float:
    timer = timeit.Timer(call, timer=time.thread_time)
    return 1e6 * min(timer.repeat(repeat, _CALLS)) / _CALLS


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15, help="rounds, of which the least counts")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, got {options.repeat}")
    print(f"{'microseconds a call':48}{'torch':>8}{'seen':>8}")
    for name, (before, seen) in measure(options.repeat).items():
        print(f"{name:48}{before:8.1f}{seen:8.1f}")


if __name__ == "__main__":
    main()
