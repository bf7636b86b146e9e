// The products of a warp's tile with the weights of its channels, with the names of head/problem.h:
//
//   h += W1 x,   g_W1 += g_h x^T,   g_x = W1^T g_h
//
// In float32 by each lane; of bfloat16 on tensor cores, 16 x 8 x 16 at a time. There x is what it is, and W1 and g_h
// are sums of two bfloat16, the rounded value and what it leaves: 16 bits, so that nothing is lost beside float32 that
// the gradients of bfloat16 could show. float16 has no such sum: what its small gradients leave is below its range.
#pragma once
#include "common/cuda/tensor_core.cuh"
#include "head/cuda/head_shared.cuh"

namespace crossd_ops::cuda {

template <typename Element>
struct TileProducts;

// weights: [channel][hidden channel]
template <>
struct TileProducts<float> {
  struct Hidden {
    float of_pixel[kHiddenChannels] = {};  // the lane's
  };
  struct GradWeight {
    float of_quarter[kOfQuarter][4] = {};  // of the lane's quarter, and four channels
  };

  __device__ __forceinline__ static void load_weights(const HeadValues& weight1, int64_t channels, int64_t first,
                                                      float* weights) {
    const int64_t channel = first + threadIdx.x % kLanes;
    float* row = weights + threadIdx.x % kLanes * kWeightRow;
    with_element_type(weight1.dtype, [&](auto type) {
      const auto* data = static_cast<const decltype(type)*>(weight1.data) + channel;
#pragma unroll 1
      for (int h = 0; h < kHiddenChannels; h += 4) {
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = channel < channels ? load_element<float>(data + (h + i) * channels) : 0;
        store_four(row + h, values);
      }
    });
  }

  __device__ __forceinline__ static void add_hidden(const float* tile, const float* weights, int channels,
                                                    Hidden& sums) {
    const float* row = tile + threadIdx.x % kLanes * kTileRow;
#pragma unroll 1
    for (int channel = 0; channel < channels; channel += 4) {
      const Four x = load_four(row + channel);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int h = 0; h < kHiddenChannels; h += 4) {
          const Four weight = load_four(weights + (channel + j) * kWeightRow + h);
#pragma unroll
          for (int i = 0; i < 4; ++i) sums.of_pixel[h + i] = fma(x.at[j], weight.at[i], sums.of_pixel[h + i]);
        }
      }
    }
  }
  __device__ __forceinline__ static void store_hidden(const Hidden& sums, float* hidden) {
#pragma unroll
    for (int quarter = 0; quarter < kQuarters; ++quarter)
      store_four(hidden + hidden_place(threadIdx.x % kLanes, quarter), sums.of_pixel + quarter * kOfQuarter);
  }

  // g_h of a quarter of a pixel, of which all quarters have read what lay there.
  __device__ __forceinline__ static void store_grad_hidden(const float* values, int pixel, float* hidden) {
    store_four(hidden + hidden_place(pixel, threadIdx.x % kQuarters), values);
  }
  __device__ __forceinline__ static void add_grad_weight(const float* tile, const float* hidden, int channels,
                                                         GradWeight& grad) {
    const int lane = threadIdx.x % kLanes, channel = lane / kQuarters * 4;
    if (channel >= channels) return;
#pragma unroll 4
    for (int pixel = 0; pixel < kTile; ++pixel) {
      const Four x = load_four(tile + pixel * kTileRow + channel);
      const Four of_hidden = load_four(hidden + hidden_place(pixel, lane % kQuarters));
#pragma unroll
      for (int i = 0; i < kOfQuarter; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) grad.of_quarter[i][j] = fma(of_hidden.at[i], x.at[j], grad.of_quarter[i][j]);
    }
  }
  // To rows of hidden channels: row 4 i + q has channel 4 q + i.
  __device__ __forceinline__ static void store_grad_weight(const GradWeight& grad, float* rows, int row_length) {
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i)
      store_four(rows + (i * kQuarters + lane % kQuarters) * row_length + lane / kQuarters * 4, grad.of_quarter[i]);
  }

  // g_x in the place of a tile: each lane of its own pixel.
  __device__ __forceinline__ static void make_grad_input(const float* weights, const float* hidden, int channels,
                                                         float* tile) {
    const int lane = threadIdx.x % kLanes;
    float of_pixel[kHiddenChannels];
#pragma unroll
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      const Four four = load_four(hidden + hidden_place(lane, quarter));
#pragma unroll
      for (int i = 0; i < kOfQuarter; ++i) of_pixel[quarter * kOfQuarter + i] = four.at[i];
    }
#pragma unroll 1
    for (int channel = 0; channel < channels; channel += 4) {
      float grad[4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int h = 0; h < kHiddenChannels; h += 4) {
          const Four weight = load_four(weights + (channel + j) * kWeightRow + h);
#pragma unroll
          for (int i = 0; i < 4; ++i) grad[j] = fma(weight.at[i], of_pixel[h + i], grad[j]);
        }
      store_four(tile + lane * kTileRow + channel, grad);
    }
  }
};

// weights: [part][row][place], the parts of the sum one after the other. Row 8 t + j has hidden channel 2 j + t, and
// place 8 j + 2 q + e has channel 8 q + 2 j + e, so that a lane's operands of both steps of sixteen channels are eight
// neighbours, a vector of the input or of its gradient: the order of channels is that of a sum, or of columns.
template <>
struct TileProducts<BFloat16> {
  static constexpr int kParts = 2, kPart = kHiddenChannels * kTile;
  static_assert(kParts * kPart * sizeof(BFloat16) <= kTile * kWeightRow * sizeof(float));
  struct Hidden {
    float products[kTile / 8][4] = {};  // of all rows and 8 pixels
  };
  struct GradWeight {
    float products[kTile / 8][4] = {};  // of all rows and 8 channels
  };
  struct PairParts {
    uint32_t high, low;
  };
  __device__ __forceinline__ static PairParts split_pair(float first, float second) {
    const uint32_t high = pack_pair(first, second, BFloat16{});
    const float first_high = to_float(BFloat16{static_cast<uint16_t>(high)});
    const float second_high = to_float(BFloat16{static_cast<uint16_t>(high >> 16)});
    return {high, pack_pair(first - first_high, second - second_high, BFloat16{})};
  }

  __device__ __forceinline__ static void load_weights(const HeadValues& weight1, int64_t channels, int64_t first,
                                                      BFloat16* weights) {
    const int lane = threadIdx.x % kLanes;
    const int64_t channel = first + lane % 16 * 2;
    with_element_type(weight1.dtype, [&](auto type) {
      const auto* data = static_cast<const decltype(type)*>(weight1.data) + channel;
#pragma unroll 4
      for (int row = lane / 16; row < kHiddenChannels; row += 2) {
        const int h = row % 8 * 2 + row / 8;
        float values[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
          values[i] = channel + i < channels ? load_element<float>(data + h * channels + i) : 0;
        const PairParts parts = split_pair(values[0], values[1]);
        uint32_t* words =
            reinterpret_cast<uint32_t*>(weights + tile_place<BFloat16>(row, lane % 4 * 8)) + lane % 16 / 4;
        words[0] = parts.high, words[kPart / 2] = parts.low;
      }
    });
  }

  __device__ __forceinline__ static void add_hidden(const TileVectors& x, const BFloat16* weights, Hidden& sums) {
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int step = 0; step < 4; step += 2) {
        uint32_t of_rows[4];
        load_matrices<false>(weights + part * kPart + tile_place<BFloat16>(lane % 16, (step + lane / 16) * 8), of_rows);
#pragma unroll
        for (int i = 0; i < kTile / 8; ++i)
          multiply_add<BFloat16>(sums.products[i], of_rows, x.words[i][step], x.words[i][step + 1]);
      }
  }
  __device__ __forceinline__ static void store_hidden(const Hidden& sums, float* hidden) {
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int i = 0; i < kTile / 8; ++i)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float* at = hidden + hidden_place(8 * i + lane % 4 * 2 + e, lane / 8) + lane / 4 % 2 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(sums.products[i][e], sums.products[i][2 + e]);
      }
  }

  // g_h of a quarter of a pixel, of which all quarters have read what lay there: vectors of eight rows, first the
  // rounded values, then what they leave.
  __device__ __forceinline__ static void store_grad_hidden(const float* values, int pixel, float* hidden) {
    uint32_t* words = reinterpret_cast<uint32_t*>(hidden) + threadIdx.x % kQuarters;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const PairParts parts = split_pair(values[t], values[2 + t]);
      words[hidden_place(pixel, t)] = parts.high, words[hidden_place(pixel, 2 + t)] = parts.low;
    }
  }
  __device__ __forceinline__ static void add_grad_weight(const BFloat16* tile, const float* hidden, int,
                                                         GradWeight& grad) {
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int pixel = 0; pixel < kTile; pixel += 16) {
      uint32_t of_hidden[kParts][4];
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        load_matrices<true>(hidden + hidden_place(pixel + lane / 16 * 8 + lane % 8, 2 * part + lane / 8 % 2),
                            of_hidden[part]);
#pragma unroll
      for (int n = 0; n < kTile / 8; n += 2) {
        uint32_t x[4];
        load_matrices<true>(tile + tile_place<BFloat16>(pixel + lane % 16, (n + lane / 16) * 8), x);
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            multiply_add<BFloat16>(grad.products[n + i], of_hidden[part], x[2 * i], x[2 * i + 1]);
      }
    }
  }
  // To rows of hidden channels: row 4 i + q has channel 4 q + i.
  __device__ __forceinline__ static void store_grad_weight(const GradWeight& grad, float* rows, int row_length) {
    const int lane = threadIdx.x % kLanes, row = lane / 4;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        float* at = rows + ((row % 2 * 2 + t) * kQuarters + row / 2) * row_length + n * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(grad.products[n][2 * t], grad.products[n][2 * t + 1]);
      }
  }

  // use(i, g_x of vector i), as TileVectors has them.
  template <typename Use>
  __device__ __forceinline__ static void make_grad_input(const BFloat16* weights, const float* hidden, Use&& use) {
    const int lane = threadIdx.x % kLanes;
    uint32_t of_rows[kParts][2][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int n = 0; n < 2; ++n)
        load_matrices<true>(weights + part * kPart + tile_place<BFloat16>(lane % 16, (2 * n + lane / 16) * 8),
                            of_rows[part][n]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint32_t pixels[kParts][4];
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        load_matrices<false>(hidden + hidden_place(16 * m + lane % 16, 2 * part + lane / 16), pixels[part]);
      float of_pixels[2][kTile / kQuarters];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint32_t *high = of_rows[0][n / 2] + n % 2 * 2, *low = of_rows[1][n / 2] + n % 2 * 2;
        float grad[4] = {};
        multiply_add<BFloat16>(grad, pixels[0], high[0], high[1]);
        multiply_add<BFloat16>(grad, pixels[1], high[0], high[1]);
        multiply_add<BFloat16>(grad, pixels[0], low[0], low[1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) of_pixels[i / 2][2 * n + i % 2] = grad[i];
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) use(2 * m + half, of_pixels[half]);
    }
  }
};

}  // namespace crossd_ops::cuda
