// Some pixels of the input with all their channels, and the hidden channels of these. Included like simd.h, after
// rotation_kernels.h.

// Rows of a tile may be read, and where they are scratch written, to a whole number of vectors.
constexpr int64_t padded(int64_t pixels) { return (pixels + kLanes<float> - 1) / kLanes<float> * kLanes<float>; }

// Where pixels lie side by side the tile is the tensor itself, else a packed copy.
struct InputTile {
  const float* data;  // channel c, pixel p: data[c * stride + p]
  int64_t stride, pixels;
};

inline void store_vector(float* target, Floats v) { __builtin_memcpy(target, &v, sizeof v); }

// body(T{}), T being the type of elements of this dtype; the head has none of float64.
template <typename Body>
inline void for_element_type(Dtype dtype, Body body) {
  if (dtype == Dtype::float32)
    body(float{});
  else if (dtype == Dtype::bfloat16)
    body(Bfloat16{});
  else
    body(Float16{});
}

// Whether a tensor is its own tile.
inline bool is_planar(const HeadPlan& plan, const MapStrides& strides, int64_t pixels) {
  return plan.dtype == Dtype::float32 && plan.shape.rows == 1 && strides.column == 1 && pixels % kLanes<float> == 0;
}

// Calls quads(p, c) for blocks of kLanes pixels x 4 channels and single(p, c) for what is left.
template <typename Quads, typename Single>
inline void for_each_quad(int64_t pixels, int64_t channels, Quads quads, Single single) {
  const int64_t whole_pixels = pixels / kLanes<float> * kLanes<float>, whole_channels = channels / 4 * 4;
  for (int64_t p = 0; p < whole_pixels; p += kLanes<float>)
    for (int64_t c = 0; c < whole_channels; c += 4) quads(p, c);
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = p < whole_pixels ? whole_channels : 0; c < channels; ++c) single(p, c);
}

// Channels side by side: blocks of them are transposed in registers.
template <typename T>
inline void pack_interleaved(const T* source, int64_t pixel, int64_t pixels, int64_t channels, float* packed,
                             int64_t stride) {
  for_each_quad(
      pixels, channels,
      [&](int64_t p, int64_t c) {
        const T* at = source + p * pixel + c;
        Floats a = load_quads(at, 4 * pixel), b = load_quads(at + pixel, 4 * pixel);
        Floats d = load_quads(at + 2 * pixel, 4 * pixel), e = load_quads(at + 3 * pixel, 4 * pixel);
        transpose_4x4(a, b, d, e);
        float* target = packed + c * stride + p;
        store_vector(target, a), store_vector(target + stride, b);
        store_vector(target + 2 * stride, d), store_vector(target + 3 * stride, e);
      },
      [&](int64_t p, int64_t c) { packed[c * stride + p] = read<float>(source[p * pixel + c]); });
}
// The inverse; what stands beside is added.
template <bool kBeside, typename T>
inline void unpack_interleaved(const float* packed, int64_t stride, int64_t pixels, int64_t channels, const T* beside,
                               T* target, int64_t pixel) {
  for_each_quad(
      pixels, channels,
      [&](int64_t p, int64_t c) {
        const float* at = packed + c * stride + p;
        Floats rows[4] = {load_vector(at), load_vector(at + stride), load_vector(at + 2 * stride),
                          load_vector(at + 3 * stride)};
        transpose_4x4(rows[0], rows[1], rows[2], rows[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const int64_t to = (p + i) * pixel + c;
          if constexpr (kBeside) rows[i] += load_quads(beside + to, 4 * pixel);
          store_quads(target + to, 4 * pixel, rows[i]);
        }
      },
      [&](int64_t p, int64_t c) {
        float sum = packed[c * stride + p];
        if constexpr (kBeside) sum += read<float>(beside[p * pixel + c]);
        target[p * pixel + c] = Write<T, float>::from(sum);
      });
}

template <typename T>
inline void pack_tile(const HeadPlan& plan, const T* source, int64_t first, int64_t pixels, float* packed,
                      int64_t stride) {
  const MapStrides& strides = plan.strides;
  if (plan.shape.rows == 1 && strides.channel == 1 && strides.column != 1)
    return pack_interleaved(source + first * strides.column, strides.column, pixels, plan.channels, packed, stride);
  for (int64_t c = 0; c < plan.channels; ++c) {
    const T* channel = source + c * strides.channel;
    if (plan.shape.rows == 1 && strides.column == 1)
      read_run(channel + first, pixels, packed + c * stride);
    else
      gather(channel, strides, plan.shape.columns, first, pixels, packed + c * stride);
  }
}

inline InputTile input_tile(const HeadPlan& plan, int64_t sample, int64_t first, int64_t pixels, float* packed) {
  const int64_t at = sample * plan.strides.sample;
  if (is_planar(plan, plan.strides, pixels))
    return {static_cast<const float*>(plan.input) + at + first, plan.strides.channel, pixels};
  const int64_t stride = padded(pixels);
  for_element_type(plan.dtype, [&](auto zero) {
    pack_tile(plan, static_cast<const decltype(zero)*>(plan.input) + at, first, pixels, packed, stride);
  });
  for (int64_t c = 0; c < plan.channels && pixels < stride; ++c)
    __builtin_memset(packed + c * stride + pixels, 0, sizeof(float) * (stride - pixels));
  return {packed, stride, pixels};
}

// target[p] = packed[p] + beside[p] at the places of a tensor, which is the inverse of packing; beside, of the strides
// of target, may be null. What is packed is used up.
template <typename T>
inline void write_tile(const HeadPlan& plan, const MapStrides& strides, float* packed, int64_t stride, int64_t first,
                       int64_t pixels, const T* beside, T* target) {
  const bool side_by_side = plan.shape.rows == 1 && strides.column == 1;
  if (plan.shape.rows == 1 && strides.channel == 1 && !side_by_side) {
    const int64_t pixel = strides.column, at = first * pixel;
    return beside ? unpack_interleaved<true>(packed, stride, pixels, plan.channels, beside + at, target + at, pixel)
                  : unpack_interleaved<false>(packed, stride, pixels, plan.channels, beside, target + at, pixel);
  }
  for (int64_t c = 0; c < plan.channels; ++c, packed += stride, target += strides.channel) {
    if (beside) {
      float buffer[kTilePixels];
      const T* channel = beside + c * strides.channel;
      const float* other = side_by_side ? as_run(channel + first, pixels, buffer)
                                        : gather(channel, strides, plan.shape.columns, first, pixels, buffer);
      for (int64_t p = 0; p < pixels; ++p) packed[p] += other[p];
    }
    if (side_by_side)
      write_run(packed, pixels, target + first);
    else
      for_each_pixel(strides, plan.shape.columns, first, pixels,
                     [&](int64_t i, int64_t at) { target[at] = Write<T, float>::from(packed[i]); });
  }
}

// As many sums as the registers hold beside one vector of pixels and one weight.
constexpr int kHiddenBlock = CROSSD_VECTOR_BYTES == 64 ? 16 : 8;

// hidden[h][p] = bias[h] + sum_c weight[c][h] x[c][p], rows of kTilePixels.
inline void hidden_tile(const HeadPlan& plan, const InputTile& x, float* hidden) {
  for (int first = 0; first < kHiddenChannels; first += kHiddenBlock) {
    for (int64_t p = 0; p < x.pixels; p += kLanes<float>) {
      Floats sum[kHiddenBlock];
#pragma GCC unroll 16
      for (int i = 0; i < kHiddenBlock; ++i) sum[i] = every_lane(plan.bias[first + i]);
      const float *weight = plan.weight + first, *source = x.data + p;
      for (int64_t c = 0; c < plan.channels; ++c, weight += kHiddenChannels, source += x.stride) {
        const Floats v = load_vector(source);
#pragma GCC unroll 16
        for (int i = 0; i < kHiddenBlock; ++i) sum[i] += weight[i] * v;
      }
#pragma GCC unroll 16
      for (int i = 0; i < kHiddenBlock; ++i) store_vector(hidden + (first + i) * kTilePixels + p, sum[i]);
    }
  }
}

inline Floats before_rectifier(const HeadPlan& plan, int h, Floats normalised) {
  return plan.gain[h] * normalised + plan.offset[h];
}
inline Floats rectified(Floats z) {
  const Floats zero{};
  return zero > z ? zero : z;  // NaN stays NaN
}

// scores[s][p] = bias2[s] + sum_h weight2[s][h] max(gain n + offset, 0), rows of kTilePixels.
inline void scores_tile(const HeadPlan& plan, const float* normalised, int64_t pixels, float* scores) {
  for (int64_t p = 0; p < pixels; p += kLanes<float>) {
    Floats sum[kHeadChannels];
    for (int s = 0; s < kHeadChannels; ++s) sum[s] = every_lane(plan.bias2[s]);
#pragma GCC unroll 16
    for (int h = 0; h < kHiddenChannels; ++h) {
      const Floats r = rectified(before_rectifier(plan, h, load_vector(normalised + h * kTilePixels + p)));
#pragma GCC unroll 4
      for (int s = 0; s < kHeadChannels; ++s) sum[s] += plan.weight2[s * kHiddenChannels + h] * r;
    }
    for (int s = 0; s < kHeadChannels; ++s) store_vector(scores + s * kTilePixels + p, sum[s]);
  }
}

// Scratch of one run of items; one allocation.
class HeadScratch {
 public:
  explicit HeadScratch(const HeadPlan& plan) {
    const int64_t row = padded(plan.parts.pixels_per_part < kTilePixels ? plan.parts.pixels_per_part : kTilePixels);
    const int64_t packed_size = (plan.channels * row + 15) / 16 * 16;
    packed = static_cast<float*>(
        allocate_scratch(sizeof(float) * (2 * packed_size + (2 * kHiddenChannels + 2 * kHeadChannels) * kTilePixels)));
    grad_packed = packed + packed_size;
    hidden = grad_packed + packed_size;
    transposed = hidden + kHiddenChannels * kTilePixels;
    scores = transposed + kHiddenChannels * kTilePixels;
    grad_scores = scores + kHeadChannels * kTilePixels;
  }
  ~HeadScratch() { free_scratch(packed); }
  HeadScratch(const HeadScratch&) = delete;

  float *packed, *grad_packed;  // [channels, pixels of a tile]
  float *hidden, *transposed;   // [16, kTilePixels], [kTilePixels, 16]
  float *scores, *grad_scores;  // [4, kTilePixels]
};

// body(sample, first pixel of the tile, tile) for each tile of the items.
template <typename Body>
inline void for_each_tile(const HeadPlan& plan, int64_t begin, int64_t end, const HeadScratch& scratch, Body body) {
  for (int64_t item = begin; item < end; ++item) {
    const PartRange range = range_of(plan.parts, item);
    for (int64_t first = range.first; first < range.last; first += kTilePixels) {
      const int64_t pixels = range.last - first < kTilePixels ? range.last - first : kTilePixels;
      body(range.sample, first, input_tile(plan, range.sample, first, pixels, scratch.packed));
    }
  }
}
