"""Mutants of the whole head's CUDA kernels, as those of mutants.py."""

from __future__ import annotations

from mutants import BRIEF, Mutant, Suite, missing_barriers

CUDA_WHOLE_HEAD = [
    Mutant("head/cuda/head_work.cuh", "inside ? row * strides.row + column * strides.column : -1",
           "row * strides.row + column * strides.column"),
    Mutant("head/cuda/head_tile.cuh", "to < 0 || channel >= channels", "to < 0"),
    Mutant("head/cuda/head_tile.cuh", "channel + j >= channels", "channel + j > channels"),
    Mutant("head/cuda/head_tile.cuh", "channel + j >= left", "left == 0"),
    Mutant("head/cuda/head_tile.cuh", "channel_of_vectors() >= channels", "false"),
    Mutant("head/cuda/head_tile.cuh", "kKeep && stays()", "false"),
    Mutant("head/cuda/head_tile.cuh", "at[i] + chunk * kTile", "at[i] + way * kTile"),
    Mutant("head/cuda/head_shared.cuh", "chunk < kHeadWarps", "true"),
    Mutant("head/cuda/head_work.cuh", "next_sample <= last()", "true"),
    Mutant("head/cuda/head_work.cuh", "(item - range.sample * work.parts.count)", "1"),
    Mutant("head/cuda/head_products.cuh", "channel + i < channels", "true"),
    Mutant("head/cuda/head_products.cuh", "row % 8 * 2 + row / 8", "row"),
    Mutant("head/cuda/head_products.cuh", "first - first_high", "0.0f"),
    Mutant("head/cuda/head_products.cuh", "(step + lane / 16) * 8", "step * 8"),
    Mutant("head/cuda/head_products.cuh", "8 * i + lane % 4 * 2 + e", "8 * i + lane % 4 + 4 * e"),
    Mutant("head/cuda/head_products.cuh", "(2 * n + lane / 16) * 8", "2 * n * 8"),
    Mutant("head/cuda/head_products.cuh", "pixel + lane / 16 * 8 + lane % 8", "pixel + lane % 16"),
    Mutant("head/cuda/head_products.cuh", "2 * part + lane / 8 % 2", "lane / 8 % 2"),
    Mutant("head/cuda/head_products.cuh", "2 * part + lane / 16", "lane / 16"),
    Mutant("head/cuda/head_products.cuh", "(row % 2 * 2 + t) * kQuarters", "t * kQuarters"),
    Mutant("head/cuda/head_tile.cuh", "chunks <= work.ways", "true"),
    Mutant("head/cuda/head_tile.cuh", "warp / work.ways * kTile", "warp * kTile"),
    Mutant("head/cuda/head_tile.cuh", "other < work.ways", "other < 1"),
    Mutant("head/cuda/head_work.cuh", "block < work.with_one_more ? block : work.with_one_more", "block"),
    Mutant("head/cuda/head_tile.cuh", "pixel < inside", "true"),
    Mutant("head/cuda/head_statistics.cuh", "(hidden.at[i] - mean[i])", "difference"),
    Mutant("head/cuda/head_statistics.cuh", "difference * difference * count * share", "0"),
    Mutant("head/cuda/head_statistics.cuh", "at[0] * difference * difference", "0"),
    Mutant("head/cuda/head_statistics.cuh", "squares - sum * sum / pixels", "squares"),
    Mutant("head/cuda/head_statistics.cuh", "squares / (work.pixels - 1)", "squares / work.pixels"),
    Mutant("head/cuda/head_statistics.cuh", "*running.batches + 1", "*running.batches"),
    Mutant("head/cuda/head.cuh", "variance[channel] + parameters.epsilon", "variance[channel]"),
    Mutant("head/cuda/head.cuh", "values.at[i] <= 0", "false"),
    Mutant("head/cuda/head.cuh", "odd ? scores[2 * i] : scores[2 * i + 1]", "scores[2 * i]"),
    Mutant("head/cuda/head.cuh", "item * kHeadChannels * 3", "0"),
    Mutant("head/cuda/head.cuh", "i < values", "false"),
    Mutant("head/cuda/head.cuh", "static_cast<unsigned>(items)", "1"),
    Mutant("head/cuda/head.cuh", "pooled.tickets + sample", "pooled.tickets"),
    Mutant("head/cuda/head_statistics.cuh", "pooled.tickets[sample] = 0", "pooled.tickets[sample] = 1"),
    Mutant("head/cuda/head_gradient.cuh", "quarter.is_off[i]", "false"),
    Mutant("head/cuda/head_gradient.cuh", "inside ? channel.at(quarter.score) : 0", "channel.at(quarter.score)"),
    Mutant("head/cuda/head_gradient.cuh", "fma(-quarter.normalised.at[i], mean_product.at[i], -mean_grad.at[i])",
           "-mean_grad.at[i]"),
    Mutant("head/cuda/head_gradient.cuh", "problem.training && block < parts.sum_blocks",
           "block < parts.sum_blocks"),
    Mutant("head/cuda/head_gradient.cuh", "warp += ways", "warp += kHeadWarps"),
    Mutant("head/cuda/head_gradient.cuh", "first_chunk + tiles.way", "tiles.way"),
    Mutant("head/cuda/head_gradient.cuh", "beside += offset", "beside += 0"),
    Mutant("head/cuda/head_gradient.cuh", "place >= 0 && has_channels", "place >= 0"),
    Mutant("head/cuda/head_join.cuh", "(sum - rest)", "sum"),
    Mutant("head/cuda/head_join.cuh", "columns[i][block * step]", "columns[i][0]"),
    Mutant("head/cuda/head_join.cuh", "sample += kHeadThreads", "sample += 2 * kHeadThreads"),
    Mutant("head/cuda/few_channels/pixels.cuh", "place < 0", "false"),
    Mutant("head/cuda/few_channels/pixels.cuh", "i < input.channels", "i < 1", 1),
    Mutant("head/cuda/few_channels/pixels.cuh", "from_mean += weight * pivot.at[i]", "from_mean += 0"),
    Mutant("head/cuda/few_channels/pixels.cuh", "threadIdx.x / kLanes * kFewMoments", "0"),
    Mutant("head/cuda/few_channels/pixels.cuh", "!of_batch", "true"),
    Mutant("head/cuda/few_channels/pixels.cuh", "turn * (kLanes / kQuarters)", "0"),
    Mutant("head/cuda/few_channels/forward.cuh", "totals[i] * totals[j] / work.pixels", "0"),
    Mutant("head/cuda/few_channels/forward.cuh", "(i == j ? 1 : 2)", "1"),
    Mutant("head/cuda/few_channels/forward.cuh", "(pivot.at[i] + totals[i] / work.pixels)",
           "(totals[i] / work.pixels)"),
    Mutant("head/cuda/few_channels/forward.cuh", "pixel_of_turn(i) < inside", "true", 1),
    Mutant("head/cuda/few_channels/backward.cuh", "pixel_of_turn(i) < inside", "true"),
    Mutant("head/cuda/few_channels/backward.cuh",
           "shared.offsets[thread] * sum_over_warps(of_warps, kFewOfHidden, thread)", "0"),
    Mutant("head/cuda/few_channels/backward.cuh", "moments[i] * moments[channel] / pixels", "0"),
    Mutant("head/cuda/few_channels/backward.cuh", "sum * moments[channel]", "0"),
    Mutant("head/cuda/few_channels/backward.cuh", "!problem.training", "false"),
]  # fmt: skip
# Found by AddressSanitizer alone, for what is read out of bounds is not used.
OUT_OF_BOUNDS = [
    Mutant("head/cuda/head_tile.cuh", "from >= 0 && channel < channels", "channel < channels"),
    Mutant("head/cuda/head_tile.cuh", "chunk * kTile < channels", "true"),
    Mutant("head/cuda/head_tile.cuh", "place < 0 ? 0 : place", "place"),
    Mutant("head/cuda/head_products.cuh", "channel < channels ? load_element<float>(data + (h + i) * channels) : 0",
           "load_element<float>(data + (h + i) * channels)"),
    Mutant("head/cuda/few_channels/pixels.cuh", "i < input.channels", "true", 0),
]  # fmt: skip
# But store_tile's: a shuffle comes next, by which the emulator orders accesses to memory, and a device does not.
BARRIERS = [
    mutant
    for files in ("head/cuda/head*.cuh", "head/cuda/few_channels/*.cuh")
    for mutant in missing_barriers(files)
    if (mutant.file, mutant.old, mutant.occurrence) != ("head/cuda/head_tile.cuh", "__syncwarp();", 1)
]
STAGES = (*BRIEF, ("--one-order", "extreme"), ())
WHOLE_HEAD = [
    Suite("cuda_whole_head", CUDA_WHOLE_HEAD, "cuda_head_check.cpp", STAGES, level="-O1"),
    Suite("whole_head_bounds", OUT_OF_BOUNDS, "cuda_head_check.cpp", BRIEF, "address"),
    Suite("whole_head_barriers", BARRIERS, "cuda_head_check.cpp", BRIEF, "thread", "-O1"),
]
