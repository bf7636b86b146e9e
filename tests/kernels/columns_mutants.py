"""Mutants of the CUDA kernels of columns, as those of mutants.py."""

from __future__ import annotations

from mutants import BRIEF, Mutant, Suite, missing_barriers

COLUMNS, SHAPE = "convolution/cuda/columns.cuh", "convolution/cuda/columns_shape.cuh"
CUDA_COLUMNS = [
    Mutant(COLUMNS, "tap % 2", "0"),
    Mutant(COLUMNS, "chunk * kColumnsVector<T> < left", "true"),
    Mutant(SHAPE, "at.x * shape.stride[2] - shape.padding[2]", "at.x * shape.stride[2]"),
    Mutant(SHAPE, "at.y * shape.dilation[1]", "at.y"),
    Mutant(COLUMNS, "channel * shape.image_channel", "0"),
    Mutant(COLUMNS, "(block - tile * across) * tile_pixels", "0"),
    Mutant(COLUMNS, "tile % down * kTileRows", "0"),
    Mutant(COLUMNS, "to + tap * shape.row", "to"),
    Mutant(SHAPE, "pixel * shape.stride[axis] == reached", "true"),
    Mutant(SHAPE, "pixel < shape.result[axis]", "true"),
    Mutant(COLUMNS, "(d * shape.kernel[1] + h) * shape.kernel[2] + w",
           "(d * shape.kernel[1] + h) * shape.kernel[2]"),
    Mutant(COLUMNS, "i * shape.taps * shape.row", "i * shape.row"),
    Mutant(COLUMNS, "tile.at(first + i, own)", "tile.at(first, own)"),
    Mutant(COLUMNS, "at.y * shape.phases[1]", "at.y"),
    Mutant(COLUMNS, "first.x + at.x * shape.phases[2]", "at.x * shape.phases[2]"),
    Mutant(COLUMNS, "place < shape.places && is_inside(at, shape.image)", "place < shape.places"),
    Mutant(COLUMNS, "(piece - own * of_pixel) * kStored", "0"),
    Mutant(COLUMNS, "left < kTileRows ? left : kTileRows", "kTileRows"),
]  # fmt: skip
COLUMNS_SUITES = [
    Suite("cuda_columns", CUDA_COLUMNS, "columns_check.cpp", BRIEF),
    Suite("columns_barriers", missing_barriers(COLUMNS), "columns_check.cpp", BRIEF, "thread"),
]
