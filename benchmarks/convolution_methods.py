"""The methods of the per-sample convolution on this CPU: the table of csrc/convolution/problem.h.

python -m benchmarks.convolution_methods [--batch 4] [--repeat 9] [--threads N]

ResNet-18's layers and small ones. Each method is forced upon a process of its own (`CROSSD_CONVOLUTION_METHOD`), the
processes take turns, and "plain" is one convolution with one kernel for all samples: what a method takes beyond it
includes building the kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import torch
import torch.nn.functional as F

from benchmarks.progress import progress_bar
from crossd_ops import crossd_conv2d

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
METHODS = ("plain", "grouped", "loop", "matrix", "small", "chosen")
_VARIABLE = "CROSSD_CONVOLUTION_METHOD"
_SECONDS = 0.1  # of one measurement


def measure(layer: Layer, method: str, batch: int, threads: int) -> tuple[float, float]:
    """Milliseconds of forward and backward, medians over `_SECONDS` each; the method is that of the process."""
    torch.set_num_threads(threads)
    in_channels, out_channels, size, stride, pixels = layer
    # Images have no gradient.
    input = torch.randn(batch, in_channels, pixels, pixels, requires_grad=in_channels > 3)
    if method == "plain":
        weight = torch.randn(out_channels, in_channels, size, size, requires_grad=True)
        wanted = [weight]
        forward = lambda: F.conv2d(input, weight, None, stride, size // 2)  # noqa: E731
    else:
        weight = torch.randn(out_channels, in_channels, size, size, size, requires_grad=True)
        shift = torch.randn(batch, 3, requires_grad=True)
        wanted = [weight, shift]
        forward = lambda: crossd_conv2d(input, weight, shift, None, stride, size // 2)  # noqa: E731
    wanted += [input] if input.requires_grad else []
    output = forward()
    grad = torch.randn_like(output)
    return _milliseconds(forward), _milliseconds(lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True))


def _milliseconds(call: Callable[[], object]) -> float:
    """Median time of a call, after one to warm up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


@contextlib.contextmanager
def processes() -> Iterator[dict[str, Executor]]:
    """One process for each method."""
    before = os.environ.pop(_VARIABLE, None)
    with contextlib.ExitStack() as stack:
        started: dict[str, Executor] = {}
        for method in METHODS:
            if method not in ("plain", "chosen"):
                os.environ[_VARIABLE] = method
            executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            started[method] = stack.enter_context(executor)
            executor.submit(os.getpid).result()  # the process starts now, with this environment
            os.environ.pop(_VARIABLE, None)
        if before is not None:
            os.environ[_VARIABLE] = before
        yield started


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_methods", description="Time the methods.")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--repeat", type=int, default=9, help="turns that the median is of (default: 9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: torch's own)")
    options = parser.parse_args(arguments)
    if min(options.batch, options.repeat, options.threads) < 1:
        given = f"{options.batch}, {options.repeat}, {options.threads}"
        parser.error(f"--batch, --repeat, --threads: expected at least 1, got {given}")
    layers = LAYERS + SMALL
    times: dict[tuple[Layer, str], list[tuple[float, float]]] = {}
    with processes() as started, progress_bar(total=options.repeat * len(layers), desc="turns") as progress:
        for _ in range(options.repeat):
            for layer in layers:
                for method, executor in started.items():
                    found = executor.submit(measure, layer, method, options.batch, options.threads).result()
                    times.setdefault((layer, method), []).append(found)
                progress.update()
    print("".join(f"{text:>19}" for text in ("layer", *METHODS)) + "   (ms forward, backward)")
    for layer in layers:
        in_channels, out_channels, size, _, pixels = layer
        cells = [f"{in_channels}->{out_channels} {size}x{size} @{pixels}"]
        for method in METHODS:
            forward, backward = (statistics.median(values) for values in zip(*times[layer, method], strict=True))
            cells.append(f"{forward:.3g} {backward:.3g}")
        print("".join(f"{text:>19}" for text in cells))


if __name__ == "__main__":
    main()
