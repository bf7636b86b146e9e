// What the kernels of the whole head share: tiles of 32 pixels and 32 channels, one for each warp at a time.
//
// `ways` warps share the pixels of a tile where the input has more channels, and take other channels of them. A tile
// goes from the input into shared memory, in float32 and pixel by pixel whatever the layout: channels-last in vectors
// of 16 bytes, any other layout with the lanes along the pixels. There each lane has a pixel, and makes what its
// warp's channels add to the hidden ones. Then four threads, the quarters, have a pixel, each with four of its hidden
// channels and one of its scores, and add up what the ways have.
#pragma once
#include "head/cuda/rotation.cuh"
#include "head/problem.h"

namespace crossd_ops::cuda {

constexpr int kTile = kLanes;             // pixels, and channels
constexpr int kQuarters = kHeadChannels;  // threads of a pixel
constexpr int kOfQuarter = kHiddenChannels / kQuarters;
constexpr int kTileRow = kTile + 4;  // floats: vectors in a column lie in other banks
constexpr int kWeightRow = kHiddenChannels + 4;
static_assert(kOfQuarter == 4 && kVectorBytes == 4 * sizeof(float));

// How the pixels are dealt out: an item is a part of a sample, and each block has a run of them.
struct HeadWork {
  HeadParts parts;
  int64_t items;
  double pixels;  // of the batch
  int blocks, ways;
  int packed, grad_packed;  // whether the input, and its gradient, are met in vectors along the channels
};

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

struct alignas(kVectorBytes) HeadShared {
  float weights[kHeadWarps][kTile * kWeightRow];      // of each warp's channels: [channel][hidden channel]
  float tile[kHeadWarps][kTile * kTileRow];           // [pixel][channel]
  float hidden[kHeadWarps][kTile * kHiddenChannels];  // of each warp's channels alone; see hidden_place
  float rows[kHeadRows][kHiddenChannels];
  float bias2[kHeadChannels];
  float channels[kHeadChannels * 3];  // backward, see write_channels

  // Of the thread's quarter.
  __device__ __forceinline__ const float* row(int row) const {
    return rows[row] + threadIdx.x % kQuarters * kOfQuarter;
  }
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

// In an order in which neither the lanes of a row nor those of a column meet in a bank.
__device__ __forceinline__ int hidden_place(int pixel, int quarter) {
  return (pixel * kQuarters + (quarter ^ (pixel >> 1 & 3))) * kOfQuarter;
}

// Where a pixel of a range lies, or -1 behind its end.
__device__ __forceinline__ int64_t place_of_pixel(const MapShape& shape, const MapStrides& strides,
                                                  const PixelRange& range, int64_t pixel) {
  if (pixel >= range.last) return -1;
  const int64_t in_sample = shape.rows == 1 ? pixel * strides.column : offset_of(strides, shape.columns, pixel);
  return range.sample * strides.sample + in_sample;
}

// A warp's channels of its pixels, of which each lane says where its own lies. channels: those from the first on.
template <typename T>
__device__ __forceinline__ void load_tile(const T* first, int64_t channel_stride, bool packed, int64_t place,
                                          int channels, float* tile) {
  const int lane = threadIdx.x % kLanes;
  if (packed) {
    constexpr int size = Pack<T>::size, kPacks = kTile / size;
    const int channel = lane % kPacks * size;
#pragma unroll(kPacks / 2)
    for (int i = 0; i < kPacks; ++i) {
      const int pixel = lane / kPacks + i * (kLanes / kPacks);
      const int64_t from = __shfl_sync(kAllLanes, place, pixel);
      Pack<T> pack{};
      if (from >= 0 && channel < channels) pack = *reinterpret_cast<const Pack<T>*>(first + from + channel);
      float values[size];
#pragma unroll
      for (int j = 0; j < size; ++j) values[j] = load_element<float>(&pack.elements[j]);
#pragma unroll
      for (int j = 0; j < size; j += 4) store_four(tile + pixel * kTileRow + channel + j, values + j);
    }
  } else {
#pragma unroll 2
    for (int channel = 0; channel < channels; channel += 4) {
      float values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        values[j] = place >= 0 && channel + j < channels
                        ? load_element<float>(first + place + (channel + j) * channel_stride)
                        : 0;
      store_four(tile + lane * kTileRow + channel, values);
    }
  }
  __syncwarp();
}

// The same way back, `beside` added to it.
template <typename T>
__device__ __forceinline__ void store_tile(const float* tile, T* first, const T* beside, int64_t channel_stride,
                                           bool packed, int64_t place, int channels) {
  const int lane = threadIdx.x % kLanes;
  __syncwarp();
  if (packed) {
    constexpr int size = Pack<T>::size, kPacks = kTile / size;
    const int channel = lane % kPacks * size;
#pragma unroll(kPacks / 2)
    for (int i = 0; i < kPacks; ++i) {
      const int pixel = lane / kPacks + i * (kLanes / kPacks);
      const int64_t to = __shfl_sync(kAllLanes, place, pixel);
      if (to < 0 || channel >= channels) continue;
      Pack<T> other{}, pack;
      if (beside) other = *reinterpret_cast<const Pack<T>*>(beside + to + channel);
#pragma unroll
      for (int j = 0; j < size; j += 4) {
        const Four values = load_four(tile + pixel * kTileRow + channel + j);
#pragma unroll
        for (int k = 0; k < 4; ++k)
          pack.elements[j + k] = convert<T>(values.at[k] + load_element<float>(&other.elements[j + k]));
      }
      uint4 vector;
      memcpy(&vector, &pack, kVectorBytes);
      store_vector(first + to + channel, vector);
    }
    return;
  }
  if (place < 0) return;
#pragma unroll 2
  for (int channel = 0; channel < channels; channel += 4) {
    const Four values = load_four(tile + lane * kTileRow + channel);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (channel + j >= channels) return;
      const int64_t at = place + (channel + j) * channel_stride;
      first[at] = convert<T>(values.at[j] + (beside ? load_element<float>(beside + at) : 0));
    }
  }
}

// What a thread is in its block, and the way from the input to the hidden channels.
template <typename T>
struct HeadTiles {
  const HeadInput& input;
  const HeadValues& weight1;
  const HeadWork& work;
  HeadShared& shared;
  int warp, lane, way, chunks;  // chunks: of 32 channels

  __device__ HeadTiles(const HeadInput& input_, const HeadValues& weight1_, const HeadWork& work_)
      : input(input_),
        weight1(weight1_),
        work(work_),
        shared(*dynamic_shared<HeadShared>()),
        warp(threadIdx.x / kLanes),
        lane(threadIdx.x % kLanes),
        way(warp % work_.ways),
        chunks(static_cast<int>((input_.channels + kTile - 1) / kTile)) {
    if (stays()) load_weights(way);
  }

  // Whether a warp has one chunk alone, whose weights, and tile, stay in shared memory.
  __device__ __forceinline__ bool stays() const { return chunks <= work.ways; }
  __device__ __forceinline__ int channels_of(int chunk) const {
    const int64_t left = input.channels - static_cast<int64_t>(chunk) * kTile;
    return left >= kTile ? kTile : left > 0 ? static_cast<int>(left) : 0;
  }
  __device__ __forceinline__ int pixels() const { return kTile * (kHeadWarps / work.ways); }  // of the block
  __device__ __forceinline__ int64_t first_of_warp(int64_t first) const { return first + warp / work.ways * kTile; }

  __device__ __forceinline__ int64_t first_item() const { return work.items * blockIdx.x / work.blocks; }
  __device__ __forceinline__ int64_t last_item() const { return work.items * (blockIdx.x + 1) / work.blocks; }

  __device__ __forceinline__ void load_weights(int chunk) {
    float* row = shared.weights[warp] + lane * kWeightRow;
    const int64_t channel = static_cast<int64_t>(chunk) * kTile + lane;
    with_element_type(weight1.dtype, [&](auto type) {
      const auto* data = static_cast<const decltype(type)*>(weight1.data) + channel;
#pragma unroll 1
      for (int h = 0; h < kHiddenChannels; h += 4) {
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          values[i] = channel < input.channels ? load_element<float>(data + (h + i) * input.channels) : 0;
        store_four(row + h, values);
      }
    });
  }
  // Weights and tile of one of the warp's chunks.
  __device__ __forceinline__ void load(int chunk, int64_t place) {
    if (!stays()) __syncwarp(), load_weights(chunk);
    const int64_t first = static_cast<int64_t>(chunk) * kTile * input.strides.channel;
    load_tile(static_cast<const T*>(input.data) + first, input.strides.channel, work.packed, place, channels_of(chunk),
              shared.tile[warp]);
  }

  // Of the lane's pixel, of the warp's channels, into shared memory. To be followed by __syncthreads.
  __device__ __forceinline__ void make_hidden(int64_t place) {
    float hidden[kHiddenChannels] = {};
    const float *row = shared.tile[warp] + lane * kTileRow, *weights = shared.weights[warp];
#pragma unroll 1
    for (int chunk = way; chunk < chunks; chunk += work.ways) {
      load(chunk, place);
      const int channels = channels_of(chunk);
#pragma unroll 1
      for (int channel = 0; channel < channels; channel += 4) {
        const Four x = load_four(row + channel);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int h = 0; h < kHiddenChannels; h += 4) {
            const Four weight = load_four(weights + (channel + j) * kWeightRow + h);
#pragma unroll
            for (int i = 0; i < 4; ++i) hidden[h + i] = fma(x.at[j], weight.at[i], hidden[h + i]);
          }
        }
      }
    }
#pragma unroll
    for (int quarter = 0; quarter < kQuarters; ++quarter)
      store_four(shared.hidden[warp] + hidden_place(lane, quarter), hidden + quarter * kOfQuarter);
  }

  // After it use(place in shared.hidden[first warp], whether the pixel is inside, the hidden channels of the quarter),
  // by whole warps: lanes of pixels outside take part in shuffles.
  template <typename Use>
  __device__ __forceinline__ void for_each_pixel(const PixelRange& range, int64_t first, Use&& use) {
    const int first_warp = warp - way;
#pragma unroll 1
    for (int i = way * kLanes + lane; i < kTile * kQuarters; i += kLanes * work.ways) {
      const int pixel = i / kQuarters, place = hidden_place(pixel, i % kQuarters);
      Four hidden = load_four(shared.row(kBias));
#pragma unroll 1
      for (int other = first_warp; other < first_warp + work.ways; ++other) {
        const Four part = load_four(shared.hidden[other] + place);
#pragma unroll
        for (int j = 0; j < kOfQuarter; ++j) hidden.at[j] += part.at[j];
      }
      use(shared.hidden[first_warp] + place, first_of_warp(first) + pixel < range.last, hidden);
    }
  }
};

}  // namespace crossd_ops::cuda
