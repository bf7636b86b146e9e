"""What a call costs the host beyond the work itself, in microseconds: decisive for small problems and for a GPU.

python -m benchmarks.host_time [--repeat 15]

On tensors so small that there is next to nothing to compute. The convolution's own time is measured beside it and taken
off: `crossd_conv2d` is compared with one library convolution of the same kernels, as many groups as it uses itself.

Code that runs in turn with a convolution's comes out of the processor's caches each time: torch.relu, measured in the
same way, is the yardstick of what any operator takes there.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable

import torch
from tqdm import tqdm

from crossd_ops import CrossDConv2d, crossd_conv2d, fourier_shift_slice

_CALLS = 1000  # of one measurement
_SAMPLES, _CHANNELS, _PIXELS = 2, 16, 12  # enough channels and pixels for one grouped convolution


def calls(grad: bool) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    input = torch.randn(_SAMPLES, _CHANNELS, _PIXELS, _PIXELS, requires_grad=grad)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, 3, requires_grad=grad)
    shift = torch.randn(_SAMPLES, 3, requires_grad=grad)
    small, layer = torch.randn(1, 1, 3, 3, 3, requires_grad=grad), CrossDConv2d(_CHANNELS, _CHANNELS, 3, padding=1)
    stacked = input.detach().reshape(1, -1, _PIXELS, _PIXELS).requires_grad_(grad)
    kernels = fourier_shift_slice(weight, shift).detach().flatten(0, 1).requires_grad_(grad)

    def convolution() -> torch.Tensor:
        return torch.conv2d(stacked, kernels, None, 1, 1, 1, _SAMPLES)

    return {
        "torch.relu of 6 numbers": lambda: torch.relu(shift),
        "fourier_shift_slice, 1 x 1 x 3^3": lambda: fourier_shift_slice(small, shift),
        "fourier_shift_slice": lambda: fourier_shift_slice(weight, shift),
        "the library convolution": convolution,
        "the library convolution, and torch.relu": lambda: (convolution(), torch.relu(shift)),
        "crossd_conv2d": lambda: crossd_conv2d(input, weight, shift, padding=1),
        "CrossDConv2d, with its head": lambda: layer(input),
    }


def measure(repeat: int) -> dict[bool, dict[str, float]]:
    """Microseconds of each call, without and with gradient: the least of `repeat` rounds, since others only add."""
    measured: dict[bool, dict[str, float]] = {}
    with tqdm(total=2 * repeat, desc="rounds") as progress:
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                timers = {name: timeit.Timer(call) for name, call in calls(grad).items()}
                best = dict.fromkeys(timers, float("inf"))
                for _ in range(repeat):
                    for name, timer in timers.items():
                        best[name] = min(best[name], 1e6 * timer.timeit(_CALLS) / _CALLS)
                    progress.update()
            measured[grad] = best
    return measured


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_time", description="Time of a call on the host.")
    parser.add_argument("--repeat", type=int, default=15, help="rounds of which the best counts (default: 15)")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, got {options.repeat}")
    torch.set_num_threads(1)
    measured = measure(options.repeat)
    for times in measured.values():
        work = (
            times["the library convolution"] + times["fourier_shift_slice"] - times["fourier_shift_slice, 1 x 1 x 3^3"]
        )
        of_relu = times["the library convolution, and torch.relu"] - times["the library convolution"]
        times["torch.relu, beyond the convolution"] = of_relu
        times["crossd_conv2d, beyond convolution and sums"] = times["crossd_conv2d"] - work
    print(f"{'microseconds of a call':<45}{'no grad':>10}{'grad, forward':>15}")
    for name in measured[False]:
        print(f"{name:<45}{measured[False][name]:>10.1f}{measured[True][name]:>15.1f}")


if __name__ == "__main__":
    main()
