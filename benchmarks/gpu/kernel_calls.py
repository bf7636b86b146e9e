"""A short list of calls that launches every kernel: every type, every special size, every order of the memory.

`python -m benchmarks.gpu.kernel_calls --device cuda` makes each once; that is what compute-sanitizer watches. Inputs
are made on the CPU and copied, and the operators are called below autograd, so that hardly any kernel of torch runs:
each would cost the sanitizer's time, and none is the matter here. Columns come with the products of a convolution.
"""

from __future__ import annotations

import argparse
import itertools
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
# O x C pairs, in blocks of 32: of 77, each sample's slices begin where no vector of 16 bytes does, and move element by
# element; of 104 and 160 in vectors, but for the last block of 104, which is not full.
CHANNELS = ((7, 11), (8, 13), (40, 4))
# Samples whose pairs have one, two and four of a block's warps, and more than are worked on at a time; the axis of the
# slices.
_SAMPLES_AND_AXES = ((35, 0), (9, 1), (5, 2))
_HEAD_SAMPLES = 9
_MAPS = ((5, 7), (40, 61))  # one part of a sample, and several
_LAYOUTS = ("contiguous", "channels_last", "strided", "misaligned", "misaligned channels_last")
# Channels of images of which columns are made and taken back, and whether these lie next to each other: in tiles of
# vectors, the last of which is not full, and one by one. So many output channels that columns are chosen in every type,
# and no whole vectors of them, which tiles want.
_IMAGES, _PIXELS = ((5, False), (3, True), (40, True)), (9, 21)
_OUTPUTS = 33
# Of tiles: so many pixels that blocks share those of a sample, where they make the gradient of the kernels.
_TILES_CHANNELS, _TILES_OUTPUTS, _TILES_PIXELS = 40, 72, (25, 23)
# Of shifted columns, which few pixels of many output channels get: channels, by fours, pairs and one, and groups; sizes
# of the image, and of the weight, with kernels of their own and without.
_SHARED_SAMPLES, _SHARED_OUTPUTS = 512, 512
_SHARED = (
    (24, 1, (2, 2), (3, 3, 3)),
    (10, 1, (2, 2), (3, 3, 3)),
    (7, 1, (2, 2), (3, 3, 3)),
    (24, 2, (2, 2), (1, 3, 5)),
    (24, 2, (2, 2, 1), (3, 3, 3)),
    (7, 1, (1, 2, 2), (3, 1, 5)),
)
# Of the whole head: channels that warps share in each way, and pixels, of which the last are more than one tile.
_HEAD_CHANNELS, _HEAD_PIXELS = (3, 64, 288), ((1, 1), (13, 11))


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
        problems = zip(CHANNELS, _SAMPLES_AND_AXES, strict=True)
        for (channels, (samples, axis)), size, out in itertools.product(problems, _SIZES, sorted(outs, key=str)):
            for sliced, strided in ((None, False), (axis, False), (axis, True)):
                yield (
                    f"fourier_shift {_short(dtype)} {channels} {size} {sliced} {_short(out)} strided={strided}",
                    _shift_call(operators, device, dtype, (*channels, *size), samples, sliced, out, strided),
                )
        for pixels in _MAPS:
            for layout in _LAYOUTS:
                yield (
                    f"rotation_head {_short(dtype)} {pixels} {layout}",
                    _head_call(operators, device, dtype, pixels, layout),
                )
        for channels, channels_last in _IMAGES:
            for stride in (1, 2):
                yield (
                    f"convolution {_short(dtype)} {channels} channels_last={channels_last} {stride}",
                    _convolution_call(operators, device, dtype, (channels, *_PIXELS), _OUTPUTS, channels_last, stride),
                )
            yield (
                f"sample_convolution {_short(dtype)} {channels} channels_last={channels_last}",
                _sample_convolution_call(operators, device, dtype, channels, channels_last),
            )
        for (channels, groups, pixels, weight), channels_last in itertools.product(_SHARED, (False, True)):
            if dtype is torch.float32:  # whose groups take another way
                groups = 1
            yield (
                f"shared {_short(dtype)} {channels} {groups} {pixels} {weight} channels_last={channels_last}",
                _shared_call(operators, device, dtype, (channels, *pixels), weight, groups, channels_last),
            )
        if dtype is torch.float64:
            continue
        for stride in (1, 2):
            sizes = (_TILES_CHANNELS, *_TILES_PIXELS)
            yield (
                f"tiles {_short(dtype)} {stride}",
                _convolution_call(operators, device, dtype, sizes, _TILES_OUTPUTS, True, stride),
            )
        for channels, pixels, layout in itertools.product(_HEAD_CHANNELS, _HEAD_PIXELS, _LAYOUTS[:3]):
            for training in (True, False) if layout == "contiguous" else (True,):
                yield (
                    f"predict_shift {_short(dtype)} {channels} {pixels} {layout} training={training}",
                    _whole_head_call(operators, device, dtype, (channels, *pixels), layout, training),
                )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _random(*size: int, dtype: torch.dtype, strided: bool = False) -> Tensor:
    """Contiguous, or with its axes in the reverse order in memory."""
    values = torch.randn(*size, generator=torch.Generator().manual_seed(len(size))).to(dtype)
    axes = range(len(size) - 1, -1, -1)
    return values.permute(*axes).contiguous().permute(*axes) if strided else values


def _shift_call(
    operators: Any,
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, ...],
    samples: int,
    sliced: int | None,
    out: torch.dtype,
    strided: bool,
) -> Callable[[], object]:
    """The slice at 1, or at 0 where there is no other, along the axis `sliced`; the whole weight where it is None."""

    def call() -> object:
        of_shift = torch.float64 if dtype is torch.float64 else torch.float32
        weight = _random(*size, dtype=dtype, strided=strided).to(device)
        shift = _random(samples, 3, dtype=of_shift).to(device)
        where = (0, None) if sliced is None else (sliced, min(1, size[2 + sliced] - 1))
        result = operators.fourier_shift(weight, shift, *where, out)
        grad = _random(*result.shape, dtype=out, strided=strided).to(device)
        return operators.fourier_shift_backward(grad, weight, shift, *where, True, True)

    return call


def _head_call(
    operators: Any, device: torch.device, dtype: torch.dtype, pixels: tuple[int, int], layout: str
) -> Callable[[], object]:
    def call() -> object:
        scores = _scores(device, dtype, pixels, layout)
        shift, statistics = operators.rotation_head(scores, True)
        grad = _random(*shift.shape, dtype=shift.dtype).to(device)
        return operators.rotation_head_backward(grad, scores, statistics, True)

    return call


def _convolution_call(
    operators: Any, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], outputs: int,
    channels_last: bool, stride: int,
) -> Callable[[], object]:  # fmt: skip
    """Of two samples, whose columns are multiplied, or tiles: there is no operator that only makes them."""

    def call() -> object:
        of_shift = torch.float64 if dtype is torch.float64 else torch.float32
        layout = torch.channels_last if channels_last else torch.contiguous_format
        image = _random(2, *sizes, dtype=dtype).to(device, memory_format=layout)
        weight = _random(outputs, sizes[0], 3, 3, 3, dtype=dtype).to(device)
        shift, place = _random(2, 3, dtype=of_shift).to(device), (stride, 1, 1, 1)
        result = operators.convolution(image, weight, shift, None, place)
        grad = _random(*result.shape, dtype=dtype).to(device, memory_format=layout)
        return operators.convolution_backward(grad, image, weight, shift, place, True, True, True)

    return call


def _shared_call(
    operators: Any, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...], weight_sizes: tuple[int, ...],
    groups: int, channels_last: bool,
) -> Callable[[], object]:  # fmt: skip
    """Of so many samples that the weight is taken as it is, for all of them."""

    def call() -> object:
        of_shift = torch.float64 if dtype is torch.float64 else torch.float32
        image = _random(_SHARED_SAMPLES, *sizes, dtype=dtype).to(device)
        if channels_last:
            image = image.movedim(1, -1).contiguous().movedim(-1, 1)
        weight = _random(_SHARED_OUTPUTS, sizes[0] // groups, *weight_sizes, dtype=dtype).to(device)
        shift = _random(_SHARED_SAMPLES, 3, dtype=of_shift).to(device)
        axes = len(sizes) - 1
        padding = [size // 2 for size in weight_sizes[3 - axes :]]
        place = (*[1] * axes, *padding, *[1] * axes, groups)
        result = operators.convolution(image, weight, shift, None, place)
        grad = _random(*result.shape, dtype=dtype).to(device)
        return operators.convolution_backward(grad, image, weight, shift, place, True, True, True)

    return call


def _sample_convolution_call(
    operators: Any, device: torch.device, dtype: torch.dtype, channels: int, channels_last: bool
) -> Callable[[], object]:
    """Of two samples with kernels of their own."""

    def call() -> object:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        image = _random(2, channels, *_PIXELS, dtype=dtype).to(device, memory_format=layout)
        weight, place = _random(2, _OUTPUTS, channels, 3, 3, dtype=dtype).to(device), (1, 1, 1, 1)
        result = operators.sample_convolution(image, weight, None, place)
        grad = _random(*result.shape, dtype=dtype).to(device, memory_format=layout)
        return operators.sample_convolution_backward(grad, image, weight, place, True, True)

    return call


def _whole_head_call(
    operators: Any, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], layout: str, training: bool
) -> Callable[[], object]:
    """With parameters in float32, what a norm keeps, and every gradient, added to another of the input; and again
    without that of the input, as a network's first layer has it."""

    def call() -> object:
        channels, height, width = sizes
        input = _random(_HEAD_SAMPLES, channels, height, width * (1 + (layout == "strided")), dtype=dtype).to(device)
        if layout == "strided":
            input = input[..., ::2]
        elif layout == "channels_last":
            input = input.contiguous(memory_format=torch.channels_last)
        weight1, bias1, gain, offset, weight2, bias2, *norm = (
            _random(*size, dtype=torch.float32).to(device)
            for size in ((16, channels, 1, 1), (16,), (16,), (16,), (4, 16, 1, 1), (4,), (16,), (16,))
        )
        given = (None, None) if training else (norm[0], norm[1].abs() + 1)
        running = (*norm, torch.zeros((), dtype=torch.int64, device=device), 0.1) if training else ()
        forward = (input, weight1, bias1, gain, offset, *given, 1e-5, weight2, bias2, True, *running)
        shift, statistics, mean, variance = operators.predict_shift(*forward)
        grad = _random(*shift.shape, dtype=shift.dtype).to(device)
        backward = (grad, input, weight1, bias1, gain, offset, mean, variance, training, 1e-5, weight2, bias2)
        operators.predict_shift_backward(*backward, statistics, True, True, True, torch.zeros_like(input))
        return operators.predict_shift_backward(*backward, statistics, True, False, True, None)

    return call


def _scores(device: torch.device, dtype: torch.dtype, pixels: tuple[int, int], layout: str) -> Tensor:
    """Of a head, (B, 4, H, W); misaligned: from the second element on, with four of them to a pixel from the fifth."""
    height, width = pixels
    elements = _HEAD_SAMPLES * 4 * height * width
    if layout == "strided":
        return _random(_HEAD_SAMPLES, 4, height, 2 * width, dtype=dtype).to(device)[..., ::2]
    if layout == "misaligned":
        return _random(elements + 1, dtype=dtype).to(device)[1:].view(_HEAD_SAMPLES, 4, height, width)
    if layout == "contiguous":
        return _random(_HEAD_SAMPLES, 4, height, width, dtype=dtype).to(device)
    first = 4 if layout.startswith("misaligned") else 0
    scores = _random(elements + first, dtype=dtype).to(device)[first:]
    return scores.view(_HEAD_SAMPLES, height, width, 4).permute(0, 3, 1, 2)


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
