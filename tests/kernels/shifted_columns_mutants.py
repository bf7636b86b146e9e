"""Mutants of the CUDA kernels of shifted columns, as those of mutants.py."""

from __future__ import annotations

from mutants import BRIEF, Mutant, Suite, missing_barriers

FOLDER = "convolution/shifted_columns/cuda/"
WINDOW, CUBIC, ANY_SIZE = (f"{FOLDER}{name}.cuh" for name in ("window", "cubic", "any_size"))
SUMS, IMAGE, LAUNCH = (f"{FOLDER}{name}.cuh" for name in ("sums", "image_from_seen", "launch"))
CUDA_SHIFTED_COLUMNS = [
    Mutant("convolution/shifted_columns/problem.h", "axis <= problem.sliced ? axis - 1 : axis", "axis"),
    Mutant(LAUNCH, "shape.columns.dilation[axis] % shape.columns.stride[axis]", "0"),
    Mutant(WINDOW, "before < from ? from : before < pixels ? before : pixels", "from"),
    Mutant(WINDOW, "last > 0 ? last : 0", "pixels"),
    Mutant(WINDOW, "(task - own * shape.lanes) * kChannels", "task - own * shape.lanes"),
    Mutant(WINDOW, "y * columns.stride[1] - columns.padding[1]", "y * columns.stride[1]"),
    Mutant(WINDOW, "group * (static_cast<int64_t>(shape.of_group) * shape.elements)", "0"),
    Mutant(WINDOW, "seen.x + x * columns.dilation[2]", "seen.x + x"),
    Mutant(WINDOW, "axis == 0 && shape.index >= 0", "false"),
    Mutant(WINDOW, "n < 0 ? n + shape.weight[0] : n", "n < 0 ? -n : n"),
    Mutant(CUBIC, "kAdjoint ? i : (kSize - i) % kSize", "i"),
    Mutant(CUBIC, "kAdjoint ? (i - k + kSize) % kSize : (k - i + kSize) % kSize", "(k - i + kSize) % kSize"),
    Mutant(CUBIC, "taps[0][z] * values[inside][channel]", "taps[0][0] * values[inside][channel]"),
    Mutant(CUBIC, "(at - m + kSize) % kSize * kStep", "(at + m) % kSize * kStep"),
    Mutant(CUBIC, "value[channel] * of_slice[i][channel]", "value[channel] * grad[i][channel]"),
    Mutant(CUBIC, "of_slice[inside][channel] + derived[z] * value[channel]", "derived[z] * value[channel]"),
    Mutant(CUBIC, "to + i * shape.columns.channels", "to + i"),
    Mutant(SUMS, "(part.part * shape.samples + part.sample) * 3", "part.sample * 3"),
    Mutant(SUMS, "sum_of_warp(shares[axis])", "shares[axis]"),
    Mutant(SUMS, "warp < warps", "warp < warps - 1"),
    Mutant(SUMS, "select(shape.shift_axis, thread)", "thread"),
    Mutant(ANY_SIZE, "kAdjoint ? i - k : k - i", "k - i"),
    Mutant(ANY_SIZE, "before * step * size + (number - before * step)", "number * size"),
    Mutant(ANY_SIZE, "at < m ? size - m : -m", "0"),
    Mutant(ANY_SIZE, "taps.taps[0][taps.of_slice(shape, z)]", "taps.taps[0][z]"),
    Mutant(ANY_SIZE, "taps.derivatives[0][n] * value", "taps.taps[0][n] * value"),
    Mutant(IMAGE, "rest_ < rest_of_step_", "false"),
    Mutant(IMAGE, "rest_ == 0", "true"),
    Mutant(IMAGE, "at + shape.columns.padding[axis]", "at"),
    Mutant(IMAGE, "load_element<Acc>(values + i)", "0", 1),
]  # fmt: skip
SHIFTED_COLUMNS_SUITES = [
    Suite("cuda_shifted_columns", CUDA_SHIFTED_COLUMNS, "shifted_columns_check.cpp", BRIEF),
    Suite("shifted_columns_barriers", missing_barriers(f"{FOLDER}*.cuh"), "shifted_columns_check.cpp", BRIEF, "thread"),
]
