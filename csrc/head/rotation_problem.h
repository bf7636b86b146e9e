// What the rotation head is asked to do, as plain numbers: the structs that the CPU kernels, the CUDA kernels and the
// emulator of the tests take. Free of torch and of CUDA.
//
//   v_c = sum_p softmax(m_c)_p m_c,p            over the pixels p of each of the 4 channels of a map
//   shift = shift_of_rotation(v), in head/rotation_math.h
//   dv_c / dm_c,p = q_c,p (1 + m_c,p - v_c),    q_c,p = exp(m_c,p - maximum_c) / sum_c
#pragma once
#include <cstdint>
#include <utility>

#include "common/dtype.h"

namespace crossd_ops {

constexpr int kHeadChannels = 4;  // three of the axis, one of the angle

// Strides in elements; any value, 0 included (an expanded tensor).
struct MapStrides {
  int64_t sample, channel, row, column;
};

struct MapShape {
  int64_t samples, rows, columns;
  int64_t pixels() const { return rows * columns; }
};

struct RotationHeadForward {
  MapShape shape;
  const void* map;  // [B, 4, rows, columns], strided
  MapStrides map_strides;
  Dtype dtype;
  int32_t exact;     // 1: Rodrigues' rotation, 0: the linear one
  void* shift;       // [B, 3], contiguous, accumulate_dtype(dtype)
  void* statistics;  // [B, 4, 3], contiguous, accumulate_dtype(dtype): maximum, sum of exp(m - maximum), v
  void* partial;     // workspace of the backend, accumulate_dtype(dtype)
};

struct RotationHeadBackward {
  MapShape shape;
  const void* map;  // [B, 4, rows, columns], strided
  MapStrides map_strides;
  Dtype dtype;
  int32_t exact;
  const void* grad_shift;  // [B, 3], contiguous, accumulate_dtype(dtype)
  const void* statistics;  // [B, 4, 3], contiguous, as the forward wrote them
  void* grad_map;          // [B, 4, rows, columns], strided, dtype
  MapStrides grad_strides;
};

// No result depends on the order of the pixels but by rounding, so rows and columns may be exchanged, and joined to one
// row. `other` is the second tensor of a backward, or null.
inline void simplify_pixels(MapShape& shape, MapStrides& strides, MapStrides* other) {
  const auto exchange = [&] {
    std::swap(shape.rows, shape.columns);
    std::swap(strides.row, strides.column);
    if (other) std::swap(other->row, other->column);
  };
  const auto joins = [&](const MapStrides& one) { return shape.rows == 1 || one.row == one.column * shape.columns; };
  if (shape.columns == 1 || (shape.rows > 1 && strides.row < strides.column)) exchange();
  if (shape.rows > 1 && joins(strides) && (!other || joins(*other))) shape.columns *= shape.rows, shape.rows = 1;
  if (shape.columns == 1) {  // of one pixel no stride matters
    strides.column = 1;
    if (other) other->column = 1;
  }
}

// How the elements of one sample lie in memory, once the pixels are simplified.
enum class PixelOrder : int32_t {
  planar,       // each channel a run of its own
  interleaved,  // one run, the four channels of a pixel side by side (channels-last)
  strided
};
inline PixelOrder pixel_order(const MapShape& shape, const MapStrides& strides) {
  if (shape.rows == 1 && strides.column == 1) return PixelOrder::planar;
  if (shape.rows == 1 && strides.column == kHeadChannels && strides.channel == 1) return PixelOrder::interleaved;
  return PixelOrder::strided;
}

}  // namespace crossd_ops
