"""What a call costs the host beyond the work itself, in microseconds: decisive for small problems and for a GPU.

python -m benchmarks.host_time [--repeat 15] [--branch gpu]

On tensors so small that there is next to nothing to compute. The convolution's own time is measured beside it and taken
off: `crossd_conv2d` is compared with one library convolution of the same kernels, with a group for each sample. Of one
sample torch has a quick way of its own; of more, its preparations take longer than all that `crossd_conv2d` does.

A second table has whole layers, channels-last, beside nn.Conv2d in the same types: what a GPU waits for at every layer.
With `--branch gpu` the CPU goes the way that a GPU takes (CROSSD_CONVOLUTION_BRANCH=gpu); its work is in these times.
"""

from __future__ import annotations

import argparse
import os
import time
import timeit
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.progress import progress_bar
from crossd_ops import CrossDConv2d, crossd_conv2d, fourier_shift_slice

_CALLS = 1000  # of one measurement
_MODES = ("float32", "bfloat16", "autocast")
_PASSES = ("no grad", "forward", "forward + backward")
# samples, channels, pixels along each side
_SIZES = {"1 x 1 x 4^2": (1, 1, 4), "1 x 4 x 8^2": (1, 4, 8), "2 x 4 x 8^2": (2, 4, 8), "2 x 16 x 12^2": (2, 16, 12)}


def calls(grad: bool) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    shift, weight = torch.randn(1, 3, requires_grad=grad), torch.randn(1, 1, 3, 3, 3, requires_grad=grad)
    measured: dict[str, Callable[[], object]] = {
        "torch.relu of 3 numbers": lambda: torch.relu(shift),
        "fourier_shift_slice, 1 x 1 x 3^3": lambda: fourier_shift_slice(weight, shift),
    }
    for name, sizes in _SIZES.items():
        convolution, ours, input = convolutions(*sizes, grad)
        measured |= {f"torch.conv2d, {name}": convolution, f"crossd_conv2d, {name}": ours}
    layer = CrossDConv2d(input.shape[1], input.shape[1], 3, padding=1)
    measured["CrossDConv2d, with its head"] = lambda: layer(input)
    return measured


def convolutions(
    samples: int, channels: int, pixels: int, grad: bool
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Tensor]:
    """torch's convolution of ready-made kernels, ours of the same problem, and its input."""
    input = torch.randn(samples, channels, pixels, pixels, requires_grad=grad)
    weight = torch.randn(channels, channels, 3, 3, 3, requires_grad=grad)
    shift = torch.randn(samples, 3, requires_grad=grad)
    stacked = input.detach().reshape(1, -1, pixels, pixels).requires_grad_(grad)
    kernels = fourier_shift_slice(weight, shift).detach().flatten(0, 1).requires_grad_(grad)
    return (
        lambda: torch.conv2d(stacked, kernels, None, 1, 1, 1, samples),
        lambda: crossd_conv2d(input, weight, shift, padding=1),
        input,
    )


def measure(repeat: int) -> dict[bool, dict[str, float]]:
    """Microseconds of each call, without and with gradient: the least of `repeat` rounds, since others only add."""
    measured: dict[bool, dict[str, float]] = {}
    with progress_bar(total=2 * repeat, desc="rounds") as progress:
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


def layer_calls(kind: type[nn.Module], mode: str) -> list[Callable[[], object]]:
    """Of a layer of 4 channels and 2 images of 4 x 4: a call for each of _PASSES.

    In float32; of a module in bfloat16; or of one in float32 under autocast, as other layers hand it bfloat16.
    """
    dtype = torch.float32 if mode == "float32" else torch.bfloat16
    layer: nn.Module = kind(4, 4, 3, padding=1)
    layer = layer.bfloat16() if mode == "bfloat16" else layer
    image = torch.randn(2, 4, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = image.detach().clone()
    leaves = [image, *layer.parameters()]

    def forward() -> Tensor:
        if mode != "autocast":
            return layer(image)
        with torch.autocast("cpu", torch.bfloat16):
            return layer(image)

    def without_grad() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        forward().backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return [without_grad, forward, both]


def measure_layers(repeat: int) -> dict[tuple[str, str], list[float]]:
    """Microseconds of each of _PASSES by mode and name of the layer, the least of `repeat` rounds.

    Of the calling thread's own time, in which the backward pass on the CPU runs too: others use the machine as well.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, CrossDConv2d)
    timers = {
        (mode, kind.__name__): [timeit.Timer(call, timer=time.thread_time) for call in layer_calls(kind, mode)]
        for mode in _MODES
        for kind in kinds
    }
    best = {key: [float("inf")] * len(_PASSES) for key in timers}
    calls = max(1, _CALLS // 10)
    with progress_bar(total=repeat, desc="rounds of layers") as progress:
        for _ in range(repeat):
            for key, of_layer in timers.items():
                best[key] = [
                    min(before, 1e6 * timer.timeit(calls) / calls)
                    for before, timer in zip(best[key], of_layer, strict=True)
                ]
            progress.update()
    return best


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_time", description="Time of a call on the host.")
    parser.add_argument("--repeat", type=int, default=15, help="rounds of which the best counts (default: 15)")
    parser.add_argument("--branch", choices=("cpu", "gpu"), help="of the convolution (default: the environment's)")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, got {options.repeat}")
    if options.branch:
        os.environ["CROSSD_CONVOLUTION_BRANCH"] = options.branch  # read at the first convolution
    torch.set_num_threads(1)
    measured = measure(options.repeat)
    for times in measured.values():
        for name in _SIZES:
            times[f"beyond the convolution, {name}"] = times[f"crossd_conv2d, {name}"] - times[f"torch.conv2d, {name}"]
    print(f"{'microseconds of a call':<45}{'no grad':>10}{'grad, forward':>15}")
    for name in measured[False]:
        print(f"{name:<45}{measured[False][name]:>10.1f}{measured[True][name]:>15.1f}")
    print(f"\n{'microseconds of a layer':<25}" + "".join(f"{name:>30}" for name in _PASSES))
    layers = measure_layers(options.repeat)
    for mode in _MODES:
        pairs = zip(layers[mode, "CrossDConv2d"], layers[mode, "Conv2d"], strict=True)
        print(f"{mode:<25}" + "".join(f"{a:.1f} / {b:.1f} = {a / b:.1f}".rjust(30) for a, b in pairs))


if __name__ == "__main__":
    main()
