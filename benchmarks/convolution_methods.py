"""The methods of the per-sample convolution on this CPU: the table of csrc/convolution/choice.h.

python -m benchmarks.convolution_methods [--batch 4] [--turns 9] [--threads N] [--given]

ResNet-18's layers, small ones, and deep ones of volumes, by the measurement of `python -m crossd_ops profile`. "plain"
is one convolution with one kernel for all samples: what a method takes beyond it includes building the kernels. With
--given the kernels of each sample are there already: `sample_conv2d` beside what others do, one convolution of torch's
for the whole batch in which each sample is a block of groups.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.progress import progress_bar
from crossd_ops import sample_conv2d
from crossd_ops.inspection.profile import measurement, report
from crossd_ops.inspection.profile.problems import Problem

Layer = tuple[int, int, int, int, int]  # in channels, out channels, kernel size, stride, size of the input

LAYERS: list[Layer] = [
    (3, 64, 7, 2, 224),
    (64, 64, 3, 1, 56),
    (128, 128, 3, 1, 28),
    (256, 256, 3, 1, 14),
    (512, 512, 3, 1, 7),
]
SMALL: list[Layer] = [
    (4, 4, 3, 1, 8),
    (8, 8, 3, 1, 8),
    (3, 16, 3, 1, 28),
    (16, 16, 3, 1, 12),
    (16, 16, 3, 1, 28),
    (64, 64, 3, 1, 14),
    (512, 512, 3, 1, 2),
]
VOLUMES: list[Layer] = [
    (64, 64, 3, 1, 8),
    (128, 128, 3, 1, 4),
    (256, 256, 3, 1, 4),
    (512, 512, 3, 1, 2),
]

_SECONDS = 0.02  # of one measurement of given kernels


def problem_of(
    layer: Layer, batch: int, dtype: torch.dtype = torch.float32, *, channels_last: bool = False, axes: int = 2
) -> Problem:
    """The convolution of a layer with odd kernels, padded to keep the image, or the volume of 3 axes."""
    in_channels, out_channels, size, stride, pixels = layer
    weight = out_channels, in_channels, size, size, size
    place = (stride,) * axes + (size // 2,) * axes + (1,) * (axes + 1)
    place += (0, size // 2) if axes == 2 else ()
    return Problem((batch, in_channels, *(pixels,) * axes), weight, place, dtype, channels_last)


def grouped_convolution(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """torch's own convolution of all samples with kernels (B, O, C, ...)."""
    stacked = input.reshape(1, -1, *input.shape[2:])
    convolve = F.conv2d if input.dim() == 4 else F.conv3d
    output = convolve(stacked, weight.flatten(0, 1), None, stride, padding, 1, len(input))
    return output.reshape(len(input), -1, *output.shape[2:])


def compared(layer: Layer, batch: int, turns: int, tick: Callable[[], object]) -> list[float]:
    """Milliseconds of `sample_conv2d` and torch's way, forward, then backward: medians of turns."""
    in_channels, out_channels, size, stride, pixels = layer
    input = torch.randn(batch, in_channels, pixels, pixels, requires_grad=in_channels > 3)  # images have no gradient
    weight = torch.randn(batch, out_channels, in_channels, size, size, requires_grad=True)
    sought = [tensor for tensor in (weight, input) if tensor.requires_grad]
    times: list[list[float]] = [[], [], [], []]
    for _ in range(turns):
        for i, convolve in enumerate((sample_conv2d, grouped_convolution)):
            forward = partial(convolve, input, weight, stride=stride, padding=size // 2)
            output = forward()
            backward = partial(torch.autograd.grad, output, sought, torch.ones_like(output), retain_graph=True)
            times[i].append(_milliseconds(forward))
            times[2 + i].append(_milliseconds(backward))
        tick()
    return [statistics.median(column) for column in times]


def _milliseconds(call: Callable[[], object]) -> float:
    """Of one of the calls within `_SECONDS`, after one to warm up.

    With one thread that thread's own time, in which the backward pass runs too: others use the machine as well.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    count, start = 0, clock()
    while count == 0 or clock() < start + _SECONDS:
        call()
        count += 1
    return 1e3 * (clock() - start) / count


def print_given(layers: list[Layer], batch: int, turns: int) -> None:
    """The table of given kernels."""
    with progress_bar(total=turns * len(layers), desc="turns") as progress:
        rows = [compared(layer, batch, turns, progress.update) for layer in layers]
    columns = "".join(f"{way:>16}{'torch':>10}{'ratio':>8}" for way in ("forward: ms", "backward: ms"))
    print(f"{'layer':<24}{columns}")
    for (in_channels, out_channels, size, _, pixels), times in zip(layers, rows, strict=True):
        name = f"{in_channels}->{out_channels},{size}x{size},{pixels}x{pixels}"
        pairs = (times[:2], times[2:])
        print(f"{name:<24}" + "".join(f"{a:>16.4g}{b:>10.4g}{b / a:>8.2f}" for a, b in pairs))


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_methods", description="Time the methods.")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--turns", type=int, default=9, help="that medians are of (default: 9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: torch's own)")
    parser.add_argument("--given", action="store_true", help="kernels that are there already, beside torch's own way")
    options = parser.parse_args(arguments)
    if min(options.batch, options.turns, options.threads) < 1:
        given = f"{options.batch}, {options.turns}, {options.threads}"
        parser.error(f"--batch, --turns, --threads: expected at least 1, got {given}")
    torch.set_num_threads(options.threads)
    layers = LAYERS + SMALL
    if options.given:
        print_given(layers, options.batch, options.turns)
        return
    rows: list[measurement.Row] = []
    problems = [problem_of(layer, options.batch) for layer in layers]
    problems += [problem_of(layer, options.batch, axes=3) for layer in VOLUMES]
    with progress_bar(total=2 * options.turns * len(problems), desc="turns") as progress:
        for number, problem in enumerate(problems):
            pair = measurement.counted(problem, [str(number)], on_gpu=False)
            measurement.measure(pair, torch.device("cpu"), options.turns, progress.update)
            rows += pair
    print(report.as_table(rows))


if __name__ == "__main__":
    main()
