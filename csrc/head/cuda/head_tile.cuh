// What the kernels of the whole head share: tiles of 32 pixels and 32 channels, one for each warp at a time.
//
// `ways` warps share the pixels of a tile where the input has more channels, and take other channels of them. A warp
// makes what its channels add to the hidden ones of its pixels (head_products.cuh). Vectors of 16 bytes of a bfloat16
// channels-last input are operands of these products as they lie in memory. Otherwise a tile goes from the input into
// shared memory first, pixel by pixel whatever the layout: channels-last in vectors, any other layout with the lanes
// along the pixels. Then four threads, the quarters, have a pixel, each with four of its hidden channels and one of its
// scores, and add up what the ways have.
#pragma once
#include "head/cuda/head_products.cuh"
#include "head/cuda/head_work.cuh"

namespace crossd_ops::cuda {

// A warp's channels of its pixels, of which each lane says where its own lies. channels: those from the first on;
// behind them come zeros, up to a whole vector.
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
  }
  __syncwarp();
}

// A vector of sums, in the input's type.
template <typename T>
__device__ __forceinline__ void store_sums(const float (&values)[Pack<T>::size], const T* beside, T* target) {
  Pack<T> other{}, pack;
  if (beside) other = *reinterpret_cast<const Pack<T>*>(beside);
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i)
    pack.elements[i] = convert<T>(values[i] + load_element<float>(&other.elements[i]));
  uint4 vector;
  memcpy(&vector, &pack, kVectorBytes);
  store_vector(target, vector);
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
      float values[size];
#pragma unroll
      for (int j = 0; j < size; j += 4) {
        const Four four = load_four(tile + tile_place<float>(pixel, channel + j));
#pragma unroll
        for (int k = 0; k < 4; ++k) values[j + k] = four.at[k];
      }
      store_sums(values, beside ? beside + to + channel : nullptr, first + to + channel);
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

// Of a lane's vector, from the place of each lane's pixel.
__device__ __forceinline__ int64_t place_of_vector(int64_t place, int i) {
  return __shfl_sync(kAllLanes, place, pixel_of_vector(i));
}
__device__ __forceinline__ uint4* vector_of_tile(BFloat16* tile, int i) {
  return reinterpret_cast<uint4*>(tile + tile_place<BFloat16>(pixel_of_vector(i), channel_of_vectors()));
}
__device__ __forceinline__ TileVectors vectors_of_tile(BFloat16* tile, int channels) {
  TileVectors x{};
  if (channel_of_vectors() >= channels) return x;  // where load_tile writes nothing
#pragma unroll
  for (int i = 0; i < kTile / 8; ++i) x.set(i, *vector_of_tile(tile, i));
  return x;
}
__device__ __forceinline__ void store_vectors(const TileVectors& x, BFloat16* tile) {
#pragma unroll
  for (int i = 0; i < kTile / 8; ++i)
    *vector_of_tile(tile, i) = uint4{x.words[i][0], x.words[i][1], x.words[i][2], x.words[i][3]};
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
    if (work.straight) {
      for (int chunk = warp; chunk < chunks; chunk += kHeadWarps) load_weights(chunk);
      __syncthreads();
    } else if (stays()) {
      load_weights(way);
    }
  }

  // Whether a warp has one chunk alone, of which what it loads stays in shared memory.
  __device__ __forceinline__ bool stays() const { return chunks <= work.ways; }
  __device__ __forceinline__ int channels_of(int chunk) const {
    const int64_t left = input.channels - static_cast<int64_t>(chunk) * kTile;
    return left >= kTile ? kTile : left > 0 ? static_cast<int>(left) : 0;
  }
  __device__ __forceinline__ int pixels() const { return kTile * (kHeadWarps / work.ways); }  // of the block
  __device__ __forceinline__ int before_warp() const { return warp / work.ways * kTile; }     // of these pixels

  __device__ __forceinline__ PixelWalk walk(const PixelRange& range) const {
    return {input.shape, static_cast<int>(range.first) + before_warp() + lane};
  }
  // left: of the range's pixels, from the block's tile on.
  __device__ __forceinline__ bool inside(int left) const { return before_warp() + lane < left; }

  __device__ __forceinline__ Element* tile() const { return reinterpret_cast<Element*>(shared.tile[warp]); }
  // Those of every chunk where vectors are taken as they lie, else the warp's.
  __device__ __forceinline__ Element* weights(int chunk) const {
    if constexpr (std::is_same_v<T, BFloat16>)
      if (work.straight) return shared.weights_of(chunk);
    return reinterpret_cast<Element*>(shared.weights[warp]);
  }
  __device__ __forceinline__ void load_weights(int chunk) {
    Products::load_weights(weight1, input.channels, static_cast<int64_t>(chunk) * kTile, weights(chunk));
  }
  // Weights and tile of one of the warp's chunks.
  __device__ __forceinline__ void load(int chunk, int64_t sample, int64_t place) {
    if (!stays() && !work.straight) __syncwarp(), load_weights(chunk);
    const int64_t first = sample * input.strides.sample + static_cast<int64_t>(chunk) * kTile * input.strides.channel;
    load_tile(static_cast<const T*>(input.data) + first, input.strides.channel, work.packed, place, channels_of(chunk),
              tile());
  }

  // Of the lane's pixel, of the warp's channels, into shared memory. kKeep: the tile that stays is to be there too. To
  // be followed by __syncthreads.
  template <bool kKeep = false>
  __device__ __forceinline__ void make_hidden(int64_t sample, int64_t place) {
    typename Products::Hidden hidden;
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (work.straight)
        add_vectors<kKeep>(sample, place, hidden);
      else
        add_tiles(sample, place, hidden);
    } else {
      add_tiles(sample, place, hidden);
    }
    Products::store_hidden(hidden, shared.hidden[warp]);
  }
  __device__ __forceinline__ void add_tiles(int64_t sample, int64_t place, typename Products::Hidden& hidden) {
#pragma unroll 1
    for (int chunk = way; chunk < chunks; chunk += work.ways) {
      load(chunk, sample, place);
      if constexpr (std::is_same_v<Element, BFloat16>)
        Products::add_hidden(vectors_of_tile(tile(), channels_of(chunk)), weights(chunk), hidden);
      else
        Products::add_hidden(tile(), weights(chunk), channels_of(chunk), hidden);
    }
  }
  // Straight from the input. Where no pixel is the sample's first one stands in, of which nothing is used: its g_h is
  // 0.
  template <bool kKeep>
  __device__ __forceinline__ void add_vectors(int64_t sample, int64_t place, typename Products::Hidden& hidden) {
    const BFloat16* at[kTile / 8];
#pragma unroll
    for (int i = 0; i < kTile / 8; ++i)
      at[i] = static_cast<const BFloat16*>(input.data) + sample * input.strides.sample + channel_of_vectors() +
              place_of_vector(place < 0 ? 0 : place, i);
    const int channels = static_cast<int>(input.channels) - channel_of_vectors();
#pragma unroll 1
    for (int chunk = way; chunk < chunks; chunk += work.ways) {
      TileVectors x{};
      if (chunk * kTile < channels)
#pragma unroll
        for (int i = 0; i < kTile / 8; ++i) x.set(i, *reinterpret_cast<const uint4*>(at[i] + chunk * kTile));
      if (kKeep && stays()) store_vectors(x, tile());
      Products::add_hidden(x, weights(chunk), hidden);
    }
  }

  // Where the warps that share pixels have their hidden channels.
  __device__ __forceinline__ float* shared_hidden() const { return shared.hidden[warp - way]; }

  // After it use(pixel of the tile, whether it is inside, the hidden channels of the quarter), by whole warps: lanes of
  // pixels outside take part in shuffles. left: as above.
  template <typename Use>
  __device__ __forceinline__ void for_each_pixel(int left, Use&& use) {
    const Four bias = shared.row(kBias);
    const int inside = left - before_warp();
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
