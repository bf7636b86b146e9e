"""Mutants of the CUDA kernels of the convolution in tiles, as those of mutants.py."""

from __future__ import annotations

from mutants import BRIEF, Mutant, Suite, missing_barriers

TILES, PRODUCT = "convolution/cuda/tiles.cuh", "convolution/cuda/tiles_product.cuh"
WARP = "static_cast<int>(threadIdx.x) / kLanes"
CUDA_TILES = [
    Mutant(PRODUCT, "vector ^ (row / 2 % kStepVectors)", "vector ^ (vector % 2 * row / 2 % kStepVectors)"),
    Mutant(PRODUCT, "first_row_ + lane_ % 16", "first_row_ + lane_ % 8"),
    Mutant(PRODUCT, f"{WARP} / kWarpsAcross<kRows>", "0"),
    Mutant(PRODUCT, f"{WARP} % kWarpsAcross<kRows>", WARP),
    Mutant(PRODUCT, "stage + (place_ ^ half)", "stage + place_"),
    Mutant(PRODUCT, "channels[n / 2][n % 2 * 2 + 1]", "channels[n / 2][n % 2 * 2]"),
    Mutant(PRODUCT, "lane_ % 4 * 2", "lane_ / 8 * 2"),
    Mutant(PRODUCT, "sums_[m][n] + 2 * half", "sums_[m][n]"),
    Mutant(PRODUCT, "wait_copies<kTilesStages - 2>();", "wait_copies<kTilesStages - 1>();"),
    Mutant(PRODUCT, "stages + free_stage * kVectors", "stages"),
    Mutant(TILES, "is_tap ? tap[0] * shape_.dilation[0] : Pixels::kFarAway", "tap[0] * shape_.dilation[0]"),
    Mutant(TILES, "tap[1] * shape_.dilation[1]", "tap[1]"),
    Mutant(TILES, "channel >= channels", "channel > channels"),
    Mutant(TILES, "place.group * shape.in_channels", "0"),
    Mutant("convolution/cuda/tiles_launch.cuh", "problem.bias_dtype", "problem.dtype"),
    Mutant("convolution/tiles_problem.h", "size + tile - 1", "size"),
    Mutant("common/cuda/tensor_core.cuh", "bits = round_to_tf32(bits)", "bits &= 0xffffe000u"),
]  # fmt: skip
TILES_INPUT = "convolution/cuda/tiles_input.cuh"
CUDA_TILES_INPUT = [
    Mutant(TILES_INPUT, "first + shape.padding[axis]", "first"),
    Mutant(TILES_INPUT, "distance -= shape.dilation[axis]", "--distance"),
    Mutant(TILES_INPUT, "shape.image[axis] - first + stride - 1", "shape.image[axis] + stride - 1"),
    Mutant(TILES_INPUT, "kernel - tap + shape.tap_step[axis] - 1", "kernel + shape.tap_step[axis] - 1"),
    Mutant(TILES_INPUT, "in_vector ^ 2 * of_vector", "in_vector"),
    Mutant(TILES_INPUT, "place.group * shape.out_channels + row", "row"),
    Mutant(TILES_INPUT, "down.first_tap", "0"),
    Mutant(TILES_INPUT, "is_tap ? -tap[0] * shape_.grad_step[0] : Pixels::kFarAway", "-tap[0] * shape_.grad_step[0]"),
    Mutant(TILES_INPUT, "-tap[1] * shape_.grad_step[1]", "-tap[1]"),
    Mutant(TILES_INPUT, "tap[1] * shape_.tap_step[1]", "tap[1]"),
    Mutant(TILES_INPUT, "half * 2 ^ n * 2", "n * 2"),
    Mutant(TILES_INPUT, "vector * 2 ^ across", "across"),
    Mutant(TILES_INPUT, "down.pixels * right.pixels - place.first_pixel", "shape.most_pixels - place.first_pixel"),
    Mutant(TILES_INPUT, "down.taps * right.taps", "down.taps * shape.kernel[1]"),
    Mutant(TILES_INPUT, "x * shape.stride[1]", "x"),
    Mutant("convolution/cuda/tiles_input_launch.cuh", "shape.stride[i] / common", "shape.stride[i]"),
    Mutant("convolution/cuda/tiles_input_launch.cuh", "shape.dilation[i] / common", "shape.dilation[i]"),
    Mutant("convolution/tiles_problem.h", "tiles_along(image[i], stride[i])", "image[i] / stride[i]"),
]  # fmt: skip
TILES_KERNELS, TILES_OPERANDS = "convolution/cuda/tiles_kernels.cuh", "convolution/cuda/tiles_kernels_operands.cuh"
CUDA_TILES_KERNELS = [
    Mutant(TILES_OPERANDS, "lane() / 16 * 8 + lane() % 8", "lane() / 8 % 2 * 8 + lane() % 8"),
    Mutant(TILES_OPERANDS, "place_ ^ block * 2", "place_"),
    Mutant(TILES_OPERANDS, "block * 4 + half * 2", "block * 4"),
    Mutant(TILES_OPERANDS, "depth_is_second_ ? i % 2 : i / 2", "i % 2"),
    Mutant(TILES_OPERANDS, "lane() / 4 % 4", "lane() % 4"),
    Mutant(TILES_KERNELS, "n % kChunkPairs", "0"),
    Mutant(TILES_KERNELS, f"{WARP} % kWarpsAcross", f"{WARP} % 2"),
    Mutant(TILES_KERNELS, "part + (kHalvedSteps ? half_of_steps() : 0)", "part"),
    Mutant(TILES_KERNELS, "sum += sums[at * (kKernelsThreads / 2)]", "sum"),
    Mutant(TILES_KERNELS, "is_pixel ? y_ * tiles.stride[0] : kFarAway", "y_ * tiles.stride[0]"),
    Mutant(TILES_KERNELS, "pixels_left_ > 0", "pixels_left_ >= 0"),
    Mutant(TILES_KERNELS, "x_ >= tiles.result[1]", "x_ > tiles.result[1]"),
    Mutant(TILES_KERNELS, "column.tap[1] * tiles.dilation[1]", "column.tap[1]"),
    Mutant(TILES_KERNELS, "place.group * tiles.in_channels", "0"),
    Mutant(TILES_KERNELS, "split * fours + own", "own"),
    Mutant(TILES_KERNELS, "left < shape.of_split ? left : shape.of_split", "left"),
    Mutant("convolution/tiles_kernels_problem.h", "of_split * kKernelsStepPixels", "of_split"),
]  # fmt: skip


def barriers(name: str, *others: str) -> Suite:
    """Of the kernels in a file, and in others, which the check of the first looks for."""
    mutants = [mutant for file in (name, *others) for mutant in missing_barriers(f"convolution/cuda/{file}.cuh")]
    return Suite(f"{name}_barriers", mutants, f"{name}_check.cpp", BRIEF, "thread")


TILES_SUITES = [
    Suite("cuda_tiles", CUDA_TILES, "tiles_check.cpp", BRIEF),
    Suite("cuda_tiles_input", CUDA_TILES_INPUT, "tiles_input_check.cpp", BRIEF),
    Suite("cuda_tiles_kernels", CUDA_TILES_KERNELS, "tiles_kernels_check.cpp", BRIEF),
    barriers("tiles", "tiles_product"),
    barriers("tiles_input"),
    barriers("tiles_kernels"),
]
