// What a block of the whole head's kernels has in shared memory: for each warp a tile of 32 pixels and 32 channels, the
// weights of these channels, and the hidden channels of the pixels; and what every pixel needs.
#pragma once
#include <type_traits>

#include "head/cuda/rotation.cuh"
#include "head/problem.h"

namespace crossd_ops::cuda {

constexpr int kTile = kLanes;             // pixels, and channels
constexpr int kQuarters = kHeadChannels;  // threads of a pixel
constexpr int kOfQuarter = kHiddenChannels / kQuarters;
constexpr int kWeightRow = kHiddenChannels + 4;
static_assert(kOfQuarter == 4 && kVectorBytes == 4 * sizeof(float));

// What an input's elements are in a tile: bfloat16 as they are, for tensor cores; others in float32.
template <typename T>
using TileElement = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16, float>;
constexpr int kStraightChunks = 2 * kHeadWarps;  // of channels, whose weights are in shared memory at once
constexpr int kTileRow = kTile + 4;              // floats: vectors in a column lie in other banks

// What every pixel needs, in rows of the hidden channels; the last four are those of the second convolution.
enum HeadRow {
  kBias,
  kMean,
  kScale,
  kGain,
  kOffset,
  kMeanGrad,
  kMeanProduct,
  kWeight2,
  kHeadRows = kWeight2 + kHeadChannels
};

struct Four {
  float at[4];
};
__device__ __forceinline__ Four load_four(const float* shared) {
  const float4 vector = *reinterpret_cast<const float4*>(shared);
  return {{vector.x, vector.y, vector.z, vector.w}};
}
__device__ __forceinline__ void store_four(float* shared, const float* values) {
  *reinterpret_cast<float4*>(shared) = make_float4(values[0], values[1], values[2], values[3]);
}

// A lane's part of a tile of bfloat16: of the pixels lane / 4 + 8 i the channels from lane % 4 * 8 on.
struct TileVectors {
  uint32_t words[kTile / 8][4];

  __device__ __forceinline__ void set(int i, uint4 vector) {
    words[i][0] = vector.x, words[i][1] = vector.y, words[i][2] = vector.z, words[i][3] = vector.w;
  }
};
__device__ __forceinline__ int pixel_of_vector(int i) { return static_cast<int>(threadIdx.x) % kLanes / 4 + 8 * i; }
__device__ __forceinline__ int channel_of_vectors() { return static_cast<int>(threadIdx.x) % 4 * 8; }

struct alignas(kVectorBytes) HeadShared {
  float weights[kHeadWarps][kTile * kWeightRow];      // see TileProducts; of a chunk, or of a warp's chunk of the time
  float tile[kHeadWarps][kTile * kTileRow];           // [pixel][channel]
  float hidden[kHeadWarps][kTile * kHiddenChannels];  // of each warp's channels alone; see hidden_place
  float rows[kHeadRows][kHiddenChannels];
  float bias2[kHeadChannels];
  float channels[kHeadChannels * 3];  // backward, see write_channels

  // Of a chunk below kStraightChunks: behind the first kHeadWarps of them where tiles of bfloat16 leave room.
  __device__ __forceinline__ BFloat16* weights_of(int chunk) {
    if (chunk < kHeadWarps) return reinterpret_cast<BFloat16*>(weights[chunk]);
    return reinterpret_cast<BFloat16*>(tile[chunk - kHeadWarps]) + kTile * kTile;
  }
  // Of the thread's quarter.
  __device__ __forceinline__ Four row(int row) const {
    return load_four(rows[row] + threadIdx.x % kQuarters * kOfQuarter);
  }
};

// Of a vector of 16 bytes in rows of four, in an order in which neither the lanes of a row nor those of a column meet
// in a bank.
__device__ __forceinline__ int vector_place(int row, int vector) { return row * 4 + (vector ^ (row >> 1 & 3)); }
__device__ __forceinline__ int hidden_place(int pixel, int quarter) {
  return vector_place(pixel, quarter) * kOfQuarter;
}

static_assert(sizeof(HeadShared::tile) >= 2 * (kTile + kHiddenChannels * 2) * kTile * kHeadWarps);

// Where a vector of a tile begins, in elements: of bfloat16 in such rows, of float32 in longer ones.
template <typename Element>
__device__ __forceinline__ int tile_place(int pixel, int channel) {
  if constexpr (std::is_same_v<Element, BFloat16>)
    return vector_place(pixel, channel / 8) * 8;
  else
    return pixel * kTileRow + channel;
}

}  // namespace crossd_ops::cuda
