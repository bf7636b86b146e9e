// What the kernels of the whole head share: tiles of 32 pixels and 32 channels, one for each warp at a time.
//
// `ways` warps share the pixels of a tile where the input has more channels, and take other channels of them. A tile
// goes from the input into shared memory, pixel by pixel whatever the layout: channels-last in vectors of 16 bytes, any
// other layout with the lanes along the pixels. There a warp makes what its channels add to the hidden ones of its
// pixels (head_products.cuh). Then four threads, the quarters, have a pixel, each with four of its hidden channels and
// one of its scores, and add up what the ways have.
#pragma once
#include "head/cuda/head_products.cuh"

namespace crossd_ops::cuda {

// How the pixels are dealt out: an item is a part of a sample, and each block has a run of them.
struct HeadWork {
  HeadParts parts;
  int64_t items;
  double pixels;  // of the batch
  int blocks, ways;
  int packed, grad_packed;  // whether the input, and its gradient, are met in vectors along the channels
};

struct HeadItems {
  const MapShape& shape;
  const HeadWork& work;

  __device__ __forceinline__ HeadItems(const MapShape& shape_, const HeadWork& work_) : shape(shape_), work(work_) {}
  __device__ __forceinline__ int64_t first() const { return work.items * blockIdx.x / work.blocks; }
  __device__ __forceinline__ int64_t last() const { return work.items * (blockIdx.x + 1) / work.blocks; }

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

// A lane's pixels of a range, one of each tile.
struct PixelWalk {
  int64_t row, column, left;  // left: of the range, from this pixel on

  __device__ __forceinline__ PixelWalk(const MapShape& shape, const PixelRange& range, int64_t pixel)
      : row(pixel / shape.columns), column(pixel % shape.columns), left(range.last - pixel) {}
  __device__ __forceinline__ void advance(int pixels, int64_t columns) {
    left -= pixels, column += pixels;
    while (column >= columns) column -= columns, ++row;
  }
  // Where the pixel lies, from its sample's first one on, or -1 behind the range's end.
  __device__ __forceinline__ int64_t place(const MapStrides& strides) const {
    return left > 0 ? row * strides.row + column * strides.column : -1;
  }
};

// A warp's channels of its pixels, of which each lane says where its own lies. channels: those from the first on;
// behind them come zeros, of bfloat16 up to a whole 16.
template <typename T>
__device__ __forceinline__ void load_tile(const T* first, int64_t channel_stride, bool packed, int64_t place,
                                          int channels, TileElement<T>* tile) {
  using Element = TileElement<T>;
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
      Element* at = tile + tile_place<Element>(pixel, channel);
      if constexpr (std::is_same_v<T, Element>) {
        *reinterpret_cast<Pack<T>*>(at) = pack;
      } else {
        float values[size];
#pragma unroll
        for (int j = 0; j < size; ++j) values[j] = load_element<float>(&pack.elements[j]);
#pragma unroll
        for (int j = 0; j < size; j += 4) store_four(at + j, values + j);
      }
    }
  } else {
    constexpr int size = Pack<Element>::size;
    const T* from = first + place;
    const int left = place < 0 ? 0 : channels;
#pragma unroll(8 / size)
    for (int channel = 0; channel < channels; channel += size) {
      Pack<Element> pack{};
#pragma unroll
      for (int j = 0; j < size; ++j, from += channel_stride) {
        if (channel + j >= left) continue;
        if constexpr (std::is_same_v<T, Element>)
          pack.elements[j] = *from;
        else
          pack.elements[j] = load_element<float>(from);
      }
      *reinterpret_cast<Pack<Element>*>(tile + tile_place<Element>(lane, channel)) = pack;
    }
    if (std::is_same_v<Element, BFloat16> && (channels - 1 & 8) == 0)
      *reinterpret_cast<Pack<Element>*>(tile + tile_place<Element>(lane, (channels - 1 & 16) + 8)) = {};
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
        const Four values = load_four(tile + tile_place<float>(pixel, channel + j));
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
    const Four values = load_four(tile + tile_place<float>(lane, channel));
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
  using Element = TileElement<T>;
  using Products = TileProducts<Element>;
  const HeadInput& input;
  const HeadValues& weight1;
  const HeadWork& work;
  const HeadItems items;
  HeadShared& shared;
  int warp, lane, way, chunks;  // chunks: of 32 channels

  __device__ HeadTiles(const HeadInput& input_, const HeadValues& weight1_, const HeadWork& work_)
      : input(input_),
        weight1(weight1_),
        work(work_),
        items(input_.shape, work_),
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

  __device__ __forceinline__ PixelWalk walk(const PixelRange& range) const {
    return {input.shape, range, first_of_warp(range.first) + lane};
  }

  __device__ __forceinline__ Element* tile() const { return reinterpret_cast<Element*>(shared.tile[warp]); }
  __device__ __forceinline__ Element* weights() const { return reinterpret_cast<Element*>(shared.weights[warp]); }
  __device__ __forceinline__ void load_weights(int chunk) {
    Products::load_weights(weight1, input.channels, static_cast<int64_t>(chunk) * kTile, weights());
  }
  // Weights and tile of one of the warp's chunks.
  __device__ __forceinline__ void load(int chunk, int64_t sample, int64_t place) {
    if (!stays()) __syncwarp(), load_weights(chunk);
    const int64_t first = sample * input.strides.sample + static_cast<int64_t>(chunk) * kTile * input.strides.channel;
    load_tile(static_cast<const T*>(input.data) + first, input.strides.channel, work.packed, place, channels_of(chunk),
              tile());
  }

  // Of the lane's pixel, of the warp's channels, into shared memory. To be followed by __syncthreads.
  __device__ __forceinline__ void make_hidden(int64_t sample, int64_t place) {
    typename Products::Hidden hidden;
#pragma unroll 1
    for (int chunk = way; chunk < chunks; chunk += work.ways) {
      load(chunk, sample, place);
      Products::add_hidden(tile(), weights(), channels_of(chunk), hidden);
    }
    Products::store_hidden(hidden, shared.hidden[warp]);
  }

  // Where the warps that share pixels have their hidden channels.
  __device__ __forceinline__ float* shared_hidden() const { return shared.hidden[warp - way]; }

  // After it use(pixel of the tile, whether it is inside, the hidden channels of the quarter), by whole warps: lanes of
  // pixels outside take part in shuffles.
  template <typename Use>
  __device__ __forceinline__ void for_each_pixel(const PixelRange& range, int64_t first, Use&& use) {
    const Four bias = shared.row(kBias);
    const int64_t pixels_left = range.last - first_of_warp(first);
    const int inside = pixels_left < kTile ? static_cast<int>(pixels_left) : kTile;
    int pixel = way * (kLanes / kQuarters) + lane / kQuarters;
    const float* at = shared_hidden() + hidden_place(pixel, lane % kQuarters);
    const int step = work.ways * (kLanes / kQuarters);
#pragma unroll 1
    for (; pixel < kTile; pixel += step, at += step * kHiddenChannels) {  // eight pixels on, vectors lie as here
      Four hidden = bias;
      const float* part = at;
#pragma unroll 1
      for (int other = 0; other < work.ways; ++other, part += kTile * kHiddenChannels) {
        const Four of_way = load_four(part);
#pragma unroll
        for (int j = 0; j < kOfQuarter; ++j) hidden.at[j] += of_way.at[j];
      }
      use(pixel, pixel < inside, hidden);
    }
  }
};

}  // namespace crossd_ops::cuda
