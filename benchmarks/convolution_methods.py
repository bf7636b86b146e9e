"""Ways to convolve each sample with its own kernels, over ResNet-18's layers: the table of crossd_ops._convolution.

python -m benchmarks.convolution_methods [--batch 4] [--repeat 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from tqdm import tqdm

from crossd_ops import _convolution
from crossd_ops._convolution import fit

# in channels, out channels, kernel size, stride, size of the input
LAYERS = [(3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (128, 128, 3, 1, 28), (256, 256, 3, 1, 14), (512, 512, 3, 1, 7)]
METHODS = ("plain", "grouped", "loop", "matrix")


def milliseconds(call: Callable[[], object], repeat: int) -> float:
    """Median time of a call on the CPU, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measure(layer: tuple[int, int, int, int, int], batch: int, repeat: int) -> dict[str, tuple[float, float]]:
    """Forward and backward time of each method; the first layer's input needs no gradient."""
    in_channels, out_channels, size, stride, pixels = layer
    geometry, _ = fit((batch, in_channels, pixels, pixels), (size, size), stride, size // 2, 1, 1)
    input, shared = torch.randn(batch, in_channels, pixels, pixels), torch.randn(out_channels, in_channels, size, size)
    kernels = torch.randn(batch, *shared.shape)
    need_input = in_channels > 3
    grad = torch.randn_like(_convolution.library_convolution(input, shared, None, geometry))
    times = {
        "plain": (
            milliseconds(lambda: _convolution.library_convolution(input, shared, None, geometry), repeat),
            milliseconds(
                lambda: _convolution._library_backward(grad, input, shared, geometry, 1, need_input, True), repeat
            ),
        )
    }
    for name in METHODS[1:]:
        with mock.patch.object(_convolution, "method", lambda *_, name=name, **__: name):
            times[name] = (
                milliseconds(lambda: _convolution.convolve(input, kernels, None, geometry), repeat),
                milliseconds(
                    lambda: _convolution.convolve_backward(grad, input, kernels, geometry, need_input, True), repeat
                ),
            )
    return times


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_methods", description="Time the methods.")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--repeat", type=int, default=9, help="calls that the median is of (default: 9)")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.repeat < 1:
        parser.error(f"--batch, --repeat: expected at least 1, got {options.batch}, {options.repeat}")
    rows = [(layer, measure(layer, options.batch, options.repeat)) for layer in tqdm(LAYERS, desc="layers")]
    print("".join(f"{text:>20}" for text in ("layer", *METHODS)) + "   (ms forward, backward)")
    for (in_channels, out_channels, size, _, pixels), times in rows:
        cells = (f"{forward:.1f} {backward:.1f}" for forward, backward in times.values())
        print("".join(f"{text:>20}" for text in (f"{in_channels}->{out_channels} {size}x{size} @{pixels}", *cells)))


if __name__ == "__main__":
    main()
