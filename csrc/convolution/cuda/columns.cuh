// Image to columns and back.
//
//   columns[b, (c, t), p] = image[b, c, p * stride - padding + t * dilation], 0 outside of the image
//   image[b, c, q]        = sum of columns[b, (c, t), p] over all t and p with p * stride - padding + t * dilation = q
//
// of channels c, elements t of a kernel, pixels p of the result and q of the image. Bytes: the columns once, in whole
// sectors; the image once from memory, and from caches as often as a kernel has elements. Two layouts of the image are
// met in vectors or rows: pixels next to each other, and channels. The way back goes through the image in phases: of
// pixels that lie a stride apart, which have copies in the same columns, next to each other.
#pragma once
#include "common/cuda/element.cuh"
#include "convolution/cuda/columns_shape.cuh"

namespace crossd_ops::cuda {

constexpr int kColumnsThreads = 256;
constexpr int kTileRows = 32;   // rows of columns, or channels
constexpr int kTileChunks = 8;  // vectors of a row of a tile: a line of 128 bytes
template <typename T>
constexpr int kTilePixels = kTileChunks * kColumnsVector<T>;
static_assert(kTileRows * kTileChunks == kColumnsThreads);  // a vector each

// A tile of rows, in shared memory. Where lanes write pieces of a column, those of each vector of channels are in other
// banks: the vectors of a row stand in an order of their own.
template <typename T>
struct ColumnsTile {
  T* elements;  // [kTileRows, kTilePixels]

  __device__ __forceinline__ static int place(int row, int pixel) {
    const int swap = row / kColumnsVector<T> % kTileChunks;
    return row * kTilePixels<T> + (pixel ^ swap * kColumnsVector<T>);
  }
  __device__ __forceinline__ T& at(int row, int pixel) const { return elements[place(row, pixel)]; }
  __device__ __forceinline__ uint4 vector(int row, int chunk) const {
    return *reinterpret_cast<const uint4*>(elements + place(row, chunk * kColumnsVector<T>));
  }
};

// Which tile a block has: of rows (or channels) and pixels of a sample.
struct TilePlace {
  int64_t sample;
  int first_row, first_pixel;
};
__device__ __forceinline__ TilePlace tile_of_block(int rows, int pixels, int tile_pixels) {
  const int across = (pixels + tile_pixels - 1) / tile_pixels, down = (rows + kTileRows - 1) / kTileRows;
  const int block = static_cast<int>(blockIdx.x), tile = block / across;
  return {tile / down, tile % down * kTileRows, (block - tile * across) * tile_pixels};
}

// The thread's vector of a tile whose rows are `step` elements apart in `to`.
template <typename T>
__device__ __forceinline__ void store_tile(const ColumnsTile<T>& tile, int rows, int64_t left, int64_t step, T* to) {
  const int row = threadIdx.x / kTileChunks, chunk = threadIdx.x % kTileChunks;
  if (row < rows && chunk * kColumnsVector<T> < left)
    store_vector(to + row * step + chunk * kColumnsVector<T>, tile.vector(row, chunk));
}

// Any strides; quickest where pixels are next to each other. T: bits of the size of an element.
template <typename T>
__global__ void __launch_bounds__(kColumnsThreads) columns_from_pixels(ColumnsShape shape, const T* image, T* columns) {
  __shared__ __align__(16) T elements[kTileRows * kTilePixels<T>];
  __shared__ Coordinates steps[kTileRows];
  __shared__ int64_t offsets[kTileRows];
  const int rows = shape.channels * shape.taps, thread = static_cast<int>(threadIdx.x);
  const TilePlace place = tile_of_block(rows, shape.pixels, kTilePixels<T>);
  if (thread < kTileRows && place.first_row + thread < rows) {
    const int channel = (place.first_row + thread) / shape.taps;
    const int tap = place.first_row + thread - channel * shape.taps;
    steps[thread] = steps_of_tap(shape, tap);
    offsets[thread] = channel * shape.image_channel + image_offset(shape, steps[thread]);
  }
  __syncthreads();
  const ColumnsTile<T> tile{elements};
  const int pixel = thread % kTilePixels<T>, index = place.first_pixel + pixel;
  const int count = rows - place.first_row < kTileRows ? rows - place.first_row : kTileRows;
  const Coordinates seen = first_seen(shape, index);
  const T* from = image + place.sample * shape.image_sample + image_offset(shape, seen);
#pragma unroll 4
  for (int row = thread / kTilePixels<T>; row < count; row += kColumnsThreads / kTilePixels<T>) {
    const bool inside = index < shape.pixels && is_inside(sum(seen, steps[row]), shape.image);
    tile.at(row, pixel) = inside ? from[offsets[row]] : T(0);
  }
  __syncthreads();
  store_tile(tile, count, shape.row - place.first_pixel, shape.row,
             columns + (place.sample * rows + place.first_row) * shape.row + place.first_pixel);
}

// Channels next to each other, in whole vectors: a tile for each element of the kernel.
template <typename T>
__global__ void __launch_bounds__(kColumnsThreads)
    columns_from_channels(ColumnsShape shape, const T* image, T* columns) {
  __shared__ __align__(16) T elements[2][kTileRows * kTilePixels<T>];
  constexpr int kVector = kColumnsVector<T>, kVectors = kTileRows / kVector;
  const TilePlace place = tile_of_block(shape.channels, shape.pixels, kTilePixels<T>);
  const int thread = static_cast<int>(threadIdx.x), pixel = thread / kVectors, row = thread % kVectors * kVector;
  const int index = place.first_pixel + pixel, left = shape.channels - place.first_row;
  const bool has_vector = index < shape.pixels && row < left;
  const Coordinates seen = first_seen(shape, index);
  const T* from = image + place.sample * shape.image_sample + place.first_row + row;
  T* to = columns + (place.sample * shape.channels + place.first_row) * shape.taps * shape.row + place.first_pixel;
  for (int tap = 0; tap < shape.taps; ++tap) {
    const ColumnsTile<T> tile{elements[tap % 2]};  // the other one may still be read
    const Coordinates at = sum(seen, steps_of_tap(shape, tap));
    uint4 vector = {0, 0, 0, 0};
    if (has_vector && is_inside(at, shape.image))
      vector = *reinterpret_cast<const uint4*>(from + image_offset(shape, at));
    T values[kVector];
    memcpy(values, &vector, kVectorBytes);
#pragma unroll
    for (int i = 0; i < kVector; ++i) tile.at(row + i, pixel) = values[i];
    __syncthreads();
    store_tile(tile, left, shape.row - place.first_pixel, shape.taps * shape.row, to + tap * shape.row);
  }
}

// The pixel at a place, by phase and then by what lies in it.
__device__ __forceinline__ Coordinates pixel_at_place(const ColumnsShape& shape, int place) {
  const int size = shape.of_phase[0] * shape.of_phase[1] * shape.of_phase[2], phase = place / size;
  const Coordinates first = coordinates_of(phase, shape.phases);
  const Coordinates at = coordinates_of(place - phase * size, shape.of_phase);
  return {first.z + at.z * shape.phases[0], first.y + at.y * shape.phases[1], first.x + at.x * shape.phases[2]};
}
__device__ __forceinline__ bool is_pixel(const ColumnsShape& shape, int place, const Coordinates& at) {
  return place < shape.places && is_inside(at, shape.image);
}

// The adjoint: each thread adds up a pixel of some channels, in the order of the taps.
template <typename T, typename Acc, int kChannels>
__device__ __forceinline__ void sum_of_copies(const ColumnsShape& shape, const T* columns, const Coordinates& at,
                                              int channels, Acc (&sums)[kChannels]) {
  for (int d = 0; d < shape.kernel[0]; ++d) {
    const int z = seeing(shape, 0, at.z, d);
    if (z < 0) continue;
    for (int h = 0; h < shape.kernel[1]; ++h) {
      const int y = seeing(shape, 1, at.y, h);
      if (y < 0) continue;
      for (int w = 0; w < shape.kernel[2]; ++w) {
        const int x = seeing(shape, 2, at.x, w);
        if (x < 0) continue;
        const int tap = (d * shape.kernel[1] + h) * shape.kernel[2] + w;
        const T* from = columns + tap * shape.row + (z * shape.result[1] + y) * shape.result[2] + x;
#pragma unroll
        for (int i = 0; i < kChannels; ++i)
          if (i < channels) sums[i] += load_element<Acc>(from + i * shape.taps * shape.row);
      }
    }
  }
}

// Channels that lie next to each other go through shared memory, so that a warp writes whole sectors.
template <typename T, typename Acc, int kStored, int kChannels>
__device__ __forceinline__ void store_channels(const ColumnsShape& shape, const TilePlace& place, int row, int pixel,
                                               const Acc (&sums)[kChannels], T* to) {
  __shared__ __align__(16) T elements[kTileRows * kTilePixels<T>];
  const ColumnsTile<T> tile{elements};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) tile.at(row + i, pixel) = convert<T>(sums[i]);
  __syncthreads();
  const int left = shape.channels - place.first_row, of_pixel = (left < kTileRows ? left : kTileRows) / kStored;
  for (int piece = static_cast<int>(threadIdx.x); piece < kTilePixels<T> * of_pixel; piece += kColumnsThreads) {
    const int own = piece / of_pixel, first = (piece - own * of_pixel) * kStored;
    const Coordinates at = pixel_at_place(shape, place.first_pixel + own);
    if (!is_pixel(shape, place.first_pixel + own, at)) continue;
    T* const address = to + image_offset(shape, at) + place.first_row + first;
    if constexpr (kStored == 1) {
      *address = tile.at(first, own);
    } else {
      __align__(16) T values[kStored];
#pragma unroll
      for (int i = 0; i < kStored; ++i) values[i] = tile.at(first + i, own);
      uint4 vector;
      memcpy(&vector, values, kVectorBytes);
      store_vector(address, vector);
    }
  }
}

// kStored: channels next to each other that are stored at once, a vector or 1; 0: any strides, quickest where pixels
// are next to each other. Three blocks to a multiprocessor: left to itself the compiler spills to have more.
template <typename T, typename Acc, int kStored>
__global__ void __launch_bounds__(kColumnsThreads, 3)
    image_from_columns(ColumnsShape shape, const T* columns, T* image) {
  constexpr int kChannels = kTileRows * kTilePixels<T> / kColumnsThreads;  // of a thread
  const TilePlace place = tile_of_block(shape.channels, shape.places, kTilePixels<T>);
  const int thread = static_cast<int>(threadIdx.x), pixel = thread % kTilePixels<T>;
  const int row = thread / kTilePixels<T> * kChannels, channel = place.first_row + row;
  Acc sums[kChannels] = {};
  const Coordinates at = pixel_at_place(shape, place.first_pixel + pixel);
  const bool has_pixel = is_pixel(shape, place.first_pixel + pixel, at);
  if (has_pixel && channel < shape.channels)
    sum_of_copies(shape, columns + (place.sample * shape.channels + channel) * shape.taps * shape.row, at,
                  shape.channels - channel, sums);
  T* to = image + place.sample * shape.image_sample;
  if constexpr (kStored > 0) {
    store_channels<T, Acc, kStored>(shape, place, row, pixel, sums, to);
  } else {
    if (!has_pixel) return;
    to += image_offset(shape, at);
#pragma unroll
    for (int i = 0; i < kChannels; ++i)
      if (channel + i < shape.channels) to[(channel + i) * shape.image_channel] = convert<T>(sums[i]);
  }
}

}  // namespace crossd_ops::cuda
