"""The methods of the per-sample convolution on this CPU: the table of csrc/convolution/choice.h.

python -m benchmarks.convolution_methods [--batch 4] [--turns 9] [--threads N]

ResNet-18's layers and small ones, by the measurement of `python -m crossd_ops profile`. "plain" is one convolution with
one kernel for all samples: what a method takes beyond it includes building the kernels.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.progress import progress_bar
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
]


def problem_of(layer: Layer, batch: int) -> Problem:
    """The convolution of a layer with odd kernels, padded to keep the image."""
    in_channels, out_channels, size, stride, pixels = layer
    weight = out_channels, in_channels, size, size, size
    place = (stride,) * 2 + (size // 2,) * 2 + (1,) * 3 + (0, size // 2)
    return Problem((batch, in_channels, pixels, pixels), weight, place, torch.float32, False)


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_methods", description="Time the methods.")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--turns", type=int, default=9, help="that medians are of (default: 9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: torch's own)")
    options = parser.parse_args(arguments)
    if min(options.batch, options.turns, options.threads) < 1:
        given = f"{options.batch}, {options.turns}, {options.threads}"
        parser.error(f"--batch, --turns, --threads: expected at least 1, got {given}")
    torch.set_num_threads(options.threads)
    layers = LAYERS + SMALL
    rows: list[measurement.Row] = []
    with progress_bar(total=2 * options.turns * len(layers), desc="turns") as progress:
        for number, layer in enumerate(layers):
            pair = measurement.counted(problem_of(layer, options.batch), [str(number)], on_gpu=False)
            measurement.measure(pair, torch.device("cpu"), options.turns, progress.update)
            rows += pair
    print(report.as_table(rows))


if __name__ == "__main__":
    main()
