"""Faults in our own kernels, of each kind that a sanitizer or the emulator itself is there to name.

mutants.py asks that each of many faults is found at all; here each must be found by what is meant to find it, in its
own words. Missing barriers of kernels, which ThreadSanitizer names, are in mutants.py: every one of them.
"""

from __future__ import annotations

from dataclasses import replace

from mutants import BRIEF, CUDA_HEAD, CUDA_SHIFT, HEAD_STAGES, SHIFT_STAGES, Mutant, Suite


def faults(finding: str, *mutants: Mutant) -> list[Mutant]:
    """The mutants, of which the output must say `finding`, a regular expression."""
    return [replace(mutant, finding=finding) for mutant in mutants]


OUT_OF_BOUNDS = "AddressSanitizer: heap-buffer-overflow"
# A lane that does not come to an operation of its warp, or that the mask leaves out.
NOT_ALL_LANES = "not all lanes of its mask reach|omits the calling lane|lanes of a warp are at different operations"
# Shared memory is NaN at the start of each block: what is not written is wrong in any order of threads.
WRONG = "too large an error|error of the shift inf"

ADDRESS_SHIFT = [
    *faults(
        OUT_OF_BOUNDS,
        Mutant("shift/cuda/cubic3.cuh", "element < warp_.count * kRow", "element < kLanes * kRow"),
        Mutant("shift/cuda/rows.cuh", "i < rows.count * rows.kPlane", "i < kLanes * rows.kPlane"),
        Mutant("shift/cuda/rows_tile.cuh", "rows.pair < rows.count", "true"),
        Mutant("shift/cuda/general.cuh", "element < count * plane", "element < (count + 1) * plane"),
        Mutant("shift/cuda/partial_sums.cuh", "tile * stride + row", "tile * stride + row + stride"),
        Mutant("shift/cuda/cubic3_spectrum.cuh", "sample < count", "true"),
        Mutant("shift/cuda/cubic3_grad.cuh", "sample < kChunk", "true"),
        Mutant("shift/cuda/cubic3_grad.cuh", "row < left", "true", 0),
        Mutant("shift/cuda/cubic3_grad.cuh", "row < left", "true", 1),
        # Beyond the end of dynamic shared memory.
        Mutant(
            "shift/cuda/partial_sums.cuh", "threadIdx.x / kLanes * kSumRows", "(threadIdx.x / kLanes + 1) * kSumRows"
        ),
        Mutant("shift/cuda/partial_sums.cuh", "row >= 3 * samples", "false"),
    ),
    *faults(
        "runtime error: signed integer overflow",
        Mutant("shift/cuda/pairs.cuh", "out_channel * strides.out_channel", "out_channel * (INT64_MAX / 2) * 3"),
    ),
    *faults(
        "runtime error: shift exponent 32 is too large",
        Mutant("shift/cuda/tile.cuh", "words[i / 2] >> i % 2 * 16", "words[i / 2] >> (i % 2 + 1) * 16"),
    ),
]
ADDRESS_HEAD = faults(
    OUT_OF_BOUNDS,
    Mutant("head/cuda/rotation.cuh", "last < pixels ? last : pixels", "last"),
    Mutant("head/cuda/rotation.cuh", "i >= begin && i + size <= end", "i >= begin && i < end", 0),
)
ADDRESS_TILES = [
    *faults(
        OUT_OF_BOUNDS,
        Mutant("convolution/cuda/tiles_product.cuh", "column < count", "true"),
        Mutant("convolution/cuda/tiles.cuh", "is_tap && row < channels_left_", "is_tap"),
        Mutant("convolution/cuda/tiles_product.cuh", "row < pixels", "true"),
    ),
    *faults(  # a pixel before the image is far from it, in unsigned offsets
        "AddressSanitizer: (heap-buffer-overflow|SEGV)",
        Mutant("convolution/cuda/tiles.cuh", "static_cast<unsigned>(left_[i] + right)", "0u"),
    ),
]
ADDRESS_TILES_INPUT = faults(
    OUT_OF_BOUNDS,
    Mutant("convolution/cuda/tiles_input.cuh", "column < shape.in_channels", "true"),
    Mutant("convolution/cuda/tiles_input.cuh", "is_tap && has_column_", "has_column_"),
)
ADDRESS_TILES_KERNELS = faults(
    OUT_OF_BOUNDS,
    Mutant("convolution/cuda/tiles_kernels.cuh", "is_pixel && has_channel_", "is_pixel"),
    Mutant("convolution/cuda/tiles_kernels.cuh", "row < rows && column.tap[0] < tiles.kernel[0]", "row < rows", 1),
)
SHIFT = [
    *faults(
        "divergent barrier",
        Mutant("shift/cuda/general.cuh", "__syncthreads();", "if (threadIdx.x < kLanes) __syncthreads();", 3),
        Mutant("shift/cuda/rows.cuh", "__syncthreads();", "if (rows.lane < rows.count) __syncthreads();", 1),
        Mutant("shift/cuda/partial_sums.cuh", "__syncthreads();", "if (threadIdx.x < tiles) __syncthreads();"),
    ),
    *faults(
        NOT_ALL_LANES,
        Mutant("shift/cuda/partial_sums.cuh", "__shfl_xor_sync(kAllLanes, value, distance)",
               "threadIdx.x == 9 ? value : __shfl_xor_sync(kAllLanes, value, distance)"),
        Mutant("shift/cuda/cubic3_backward.cuh", "__shfl_xor_sync(kAllLanes, sum, distance)",
               "__shfl_xor_sync(kAllLanes >> 1, sum, distance)"),
        Mutant("shift/cuda/cubic3.cuh", "__syncwarp();", "if (warp.lane < warp.count) __syncwarp();", 0),
    ),
    *faults(
        WRONG,
        Mutant("shift/cuda/partial_sums.cuh", "threadIdx.x % kLanes < kSumRows", "threadIdx.x < kSumRows"),
        Mutant("shift/cuda/rows_tile.cuh", "to[n - 1] = values[n]", "taps[0]"),
        Mutant("shift/cuda/general.cuh", "planes.grad_weight[tile.volume_index(pair, x, y, z)] = 0;", ""),
    ),
]  # fmt: skip
HEAD = [
    *faults(
        "divergent barrier",
        Mutant("head/cuda/rotation.cuh", "__syncthreads();", "if (warp == 0) __syncthreads();", 0),
        Mutant("head/cuda/rotation.cuh", "__syncthreads();", "if (threadIdx.x / kLanes != 1) __syncthreads();", 1),
    ),
    *faults(
        NOT_ALL_LANES,
        Mutant("head/cuda/rotation.cuh", "__shfl_xor_sync(kAllLanes, pooled.sum, distance)",
               "__shfl_xor_sync(kAllLanes >> 16, pooled.sum, distance)"),
        Mutant("head/cuda/rotation.cuh", "__shfl_sync(kAllLanes, pooled, channel)",
               "lane < kHeadChannels ? __shfl_sync(kAllLanes, pooled, channel) : pooled"),
    ),
    *faults(WRONG, Mutant("head/cuda/rotation.cuh", "threadIdx.x % kLanes != 0", "threadIdx.x != 0")),
]  # fmt: skip
# By blocks of which nothing but the ticket tells the order.
LAST_BLOCK = faults(
    "ThreadSanitizer: data race",
    Mutant("common/cuda/last_block.cuh", "*ticket = 0;", ""),
    Mutant("common/cuda/last_block.cuh", "__syncthreads();", ""),
    Mutant("common/cuda/last_block.cuh", "__threadfence();", "", 0),
    Mutant("common/cuda/last_block.cuh", "__threadfence();", "", 1),
    Mutant(
        "common/cuda/last_block.cuh", "atomicAdd(ticket, share) == blocks - share", "(atomicAdd(ticket, share), true)"
    ),
    Mutant("common/cuda/last_block.cuh", "blocks - share", "0u"),
)

KINDS = [
    Suite("faults_address_shift", ADDRESS_SHIFT, "check_kernels.cpp", BRIEF, "address"),
    Suite("faults_address_head", ADDRESS_HEAD, "rotation_head_check.cpp", BRIEF, "address"),
    Suite("faults_address_tiles", ADDRESS_TILES, "tiles_check.cpp", BRIEF, "address"),
    Suite("faults_address_tiles_input", ADDRESS_TILES_INPUT, "tiles_input_check.cpp", BRIEF, "address"),
    Suite("faults_address_tiles_kernels", ADDRESS_TILES_KERNELS, "tiles_kernels_check.cpp", BRIEF, "address"),
    Suite("faults_last_block", LAST_BLOCK, "last_block_check.cpp", BRIEF, "thread"),
    # In one program with the mutants of the same kernels.
    Suite("cuda_shift", [*SHIFT, *CUDA_SHIFT], "check_kernels.cpp", SHIFT_STAGES),
    Suite("cuda_head", [*HEAD, *CUDA_HEAD], "rotation_head_check.cpp", HEAD_STAGES),
]
