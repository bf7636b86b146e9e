"""A short list of calls that launches every kernel: every type, every special size, every order of the memory.

`python -m benchmarks.gpu.kernel_calls --device cuda` makes each once; that is what compute-sanitizer watches. Inputs
are made on the CPU and copied, and the operators are called below autograd, so that hardly any kernel of torch runs:
each would cost the sanitizer's time, and none is the matter here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import crossd_ops

_CSRC = Path(__file__).resolve().parents[2] / "csrc"
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Sizes with kernels of their own, an odd and an even general one (of two even sizes: complex taps), and a single voxel.
_SIZES = ((3, 3, 3), (5, 5, 5), (7, 7, 7), (2, 3, 5), (4, 4, 3), (1, 1, 1))
# Blocks of 32 pairs, of which the last is not full; of the map one part of a sample, and several.
_SAMPLES, _OUT_CHANNELS, _IN_CHANNELS = 9, 7, 11
_MAPS = ((5, 7), (40, 61))


def kernel_names() -> set[str]:
    """The kernels that the sources define."""
    return {
        name
        for path in sorted(_CSRC.rglob("*.cuh"))
        for name in re.findall(r"__global__ void __launch_bounds__\(.*?\)\s+(\w+)\(", path.read_text(), re.DOTALL)
    }


def all_calls(operators: Any, device: torch.device, *, few: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each call is, and the call; `operators` as `torch.ops.crossd_ops`. `few`: float32 alone."""
    dtypes = (torch.float32,) if few else _DTYPES
    for dtype in dtypes:
        outs = {dtype} if few or dtype is not torch.float32 else {torch.float32, torch.bfloat16, torch.float16}
        for size in _SIZES:
            for index in (None, min(1, size[0] - 1)):
                for out in sorted(outs, key=str):
                    name = f"fourier_shift {_short(dtype)} {size} {index} {_short(out)}"
                    yield name, _shift_call(operators, device, dtype, size, index, out)
        for pixels in _MAPS:
            for layout in ("contiguous", "channels_last", "strided"):
                yield (
                    f"rotation_head {_short(dtype)} {pixels} {layout}",
                    _head_call(operators, device, dtype, pixels, layout),
                )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _random(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(len(size))).to(dtype)


def _shift_call(
    operators: Any, device: torch.device, dtype: torch.dtype, size: tuple[int, ...], index: int | None, out: torch.dtype
) -> Callable[[], object]:
    def call() -> object:
        of_shift = torch.float64 if dtype is torch.float64 else torch.float32
        weight = _random(_OUT_CHANNELS, _IN_CHANNELS, *size, dtype=dtype).to(device)
        shift = _random(_SAMPLES, 3, dtype=of_shift).to(device)
        result = operators.fourier_shift(weight, shift, 0, index, out)
        grad = _random(*result.shape, dtype=out).to(device)
        return operators.fourier_shift_backward(grad, weight, shift, 0, index, True, True)

    return call


def _head_call(
    operators: Any, device: torch.device, dtype: torch.dtype, pixels: tuple[int, int], layout: str
) -> Callable[[], object]:
    def call() -> object:
        height, width = pixels
        scores = _random(_SAMPLES, 4, height, width, dtype=dtype)
        if layout == "channels_last":
            scores = scores.to(device).contiguous(memory_format=torch.channels_last)
        elif layout == "strided":
            scores = _random(_SAMPLES, 4, height, 2 * width, dtype=dtype).to(device)[..., ::2]
        else:
            scores = scores.to(device)
        shift, statistics = operators.rotation_head(scores, True)
        grad = _random(*shift.shape, dtype=shift.dtype).to(device)
        return operators.rotation_head_backward(grad, scores, statistics, True)

    return call


def main() -> None:
    """Makes every call; prints how many."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernel_calls", description="Launch every kernel.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--few", action="store_true", help="float32 alone")
    options = parser.parse_args()
    device = torch.device(options.device)
    if crossd_ops.backend(device) != "compiled":
        parser.error(f"--device: expected one with compiled kernels, got {device}")
    calls = 0
    for _, call in all_calls(torch.ops.crossd_ops, device, few=options.few):
        call()
        calls += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{calls} calls")


if __name__ == "__main__":
    main()
