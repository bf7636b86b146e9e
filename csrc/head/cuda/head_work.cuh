// How the pixels of a batch are dealt out to the blocks and lanes of the whole head's kernels.
#pragma once
#include "head/cuda/rotation.cuh"

namespace crossd_ops::cuda {

// How the pixels are dealt out: an item is a part of a sample, and each block has a run of them.
struct HeadWork {
  HeadParts parts;
  int64_t items_of_block;  // at least; the first blocks have one more
  int with_one_more;
  double pixels;  // of the batch
  int blocks, ways;
  int packed, grad_packed;  // whether the input, and its gradient, are met in vectors along the channels
  int straight;             // whether its vectors are operands of products as they lie, of bfloat16
};

struct HeadItems {
  const MapShape& shape;
  const HeadWork& work;

  __device__ __forceinline__ HeadItems(const MapShape& shape_, const HeadWork& work_) : shape(shape_), work(work_) {}
  __device__ __forceinline__ int64_t first_of(int block) const {
    return work.items_of_block * block + (block < work.with_one_more ? block : work.with_one_more);
  }
  __device__ __forceinline__ int64_t first() const { return first_of(static_cast<int>(blockIdx.x)); }
  __device__ __forceinline__ int64_t last() const { return first_of(static_cast<int>(blockIdx.x) + 1); }

  __device__ __forceinline__ int64_t sample_of(int64_t item) const { return item / work.parts.count; }
  // What the block has of the next sample, whose items begin with `item`; which is then behind them.
  __device__ __forceinline__ PixelRange next_range(int64_t& item) const {
    PixelRange range = range_of(work.parts, shape, item);
    const int64_t next_sample = (range.sample + 1) * work.parts.count;
    if (next_sample <= last()) {
      range.last = shape.rows * shape.columns, item = next_sample;
    } else {
      item = last();
      range.last = (item - range.sample * work.parts.count) * work.parts.pixels;
    }
    return range;
  }
};

// Pixels of a sample are counted in 32 bits, which head_work makes sure of.
__device__ __forceinline__ int length_of(const PixelRange& range) { return static_cast<int>(range.last - range.first); }

// A lane's pixels of a range, one of each tile.
struct PixelWalk {
  int columns, row, column;

  __device__ __forceinline__ PixelWalk(const MapShape& shape, int pixel)
      : columns(static_cast<int>(shape.columns)), row(pixel / columns), column(pixel % columns) {}
  __device__ __forceinline__ void advance(int pixels) {
    column += pixels;
    while (column >= columns) column -= columns, ++row;
  }
  // Where the pixel lies, from its sample's first one on, or -1 where it is not inside of the range.
  __device__ __forceinline__ int64_t place(const MapStrides& strides, bool inside) const {
    return inside ? row * strides.row + column * strides.column : -1;
  }
};

}  // namespace crossd_ops::cuda
