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

inline bool is_planar(const MapShape& shape, const MapStrides& strides, int64_t pixels) {
  return shape.rows == 1 && strides.column == 1 && pixels % kLanes<float> == 0;
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
inline void pack_interleaved(const float* source, int64_t pixel, int64_t pixels, int64_t channels, float* packed,
                             int64_t stride) {
  for_each_quad(
      pixels, channels,
      [&](int64_t p, int64_t c) {
        const float* at = source + p * pixel + c;
        Floats a = load_quads(at, 4 * pixel), b = load_quads(at + pixel, 4 * pixel);
        Floats d = load_quads(at + 2 * pixel, 4 * pixel), e = load_quads(at + 3 * pixel, 4 * pixel);
        transpose_4x4(a, b, d, e);
        float* target = packed + c * stride + p;
        store_vector(target, a), store_vector(target + stride, b);
        store_vector(target + 2 * stride, d), store_vector(target + 3 * stride, e);
      },
      [&](int64_t p, int64_t c) { packed[c * stride + p] = source[p * pixel + c]; });
}
inline void unpack_interleaved(const float* packed, int64_t stride, int64_t pixels, int64_t channels, float* target,
                               int64_t pixel) {
  for_each_quad(
      pixels, channels,
      [&](int64_t p, int64_t c) {
        const float* at = packed + c * stride + p;
        Floats a = load_vector(at), b = load_vector(at + stride), d = load_vector(at + 2 * stride),
               e = load_vector(at + 3 * stride);
        transpose_4x4(a, b, d, e);
        float* to = target + p * pixel + c;
        store_quads(to, 4 * pixel, a), store_quads(to + pixel, 4 * pixel, b);
        store_quads(to + 2 * pixel, 4 * pixel, d), store_quads(to + 3 * pixel, 4 * pixel, e);
      },
      [&](int64_t p, int64_t c) { target[p * pixel + c] = packed[c * stride + p]; });
}

inline InputTile input_tile(const HeadPlan& plan, int64_t sample, int64_t first, int64_t pixels, float* packed) {
  const MapStrides& strides = plan.strides;
  const float* source = plan.input + sample * strides.sample;
  if (is_planar(plan.shape, strides, pixels)) return {source + first, strides.channel, pixels};
  const int64_t stride = padded(pixels);
  if (plan.shape.rows == 1 && strides.channel == 1 && strides.column != 1) {
    pack_interleaved(source + first * strides.column, strides.column, pixels, plan.channels, packed, stride);
  } else {
    for (int64_t c = 0; c < plan.channels; ++c) {
      const float* channel = source + c * strides.channel;
      if (plan.shape.rows == 1 && strides.column == 1)
        __builtin_memcpy(packed + c * stride, channel + first, sizeof(float) * pixels);
      else
        gather(channel, strides, plan.shape.columns, first, pixels, packed + c * stride);
    }
  }
  for (int64_t c = 0; c < plan.channels && pixels < stride; ++c)
    __builtin_memset(packed + c * stride + pixels, 0, sizeof(float) * (stride - pixels));
  return {packed, stride, pixels};
}

// target[p] = packed[p] + beside[p] at the places of a tensor; beside may be null.
inline void write_sum(const float* packed, int64_t pixels, const float* beside, float* target) {
  if (!beside) {
    __builtin_memcpy(target, packed, sizeof(float) * pixels);
    return;
  }
  for (int64_t p = 0; p < pixels; ++p) target[p] = packed[p] + beside[p];
}

// The inverse of packing, for a tile that is not the tensor itself. beside: of the same strides as target, or null.
inline void write_tile(const float* packed, int64_t stride, int64_t first, int64_t pixels, int64_t channels,
                       const MapShape& shape, const MapStrides& strides, const float* beside, float* target) {
  if (!beside && shape.rows == 1 && strides.channel == 1 && strides.column != 1)
    return unpack_interleaved(packed, stride, pixels, channels, target + first * strides.column, strides.column);
  for (int64_t c = 0; c < channels; ++c) {
    const float* source = packed + c * stride;
    float* channel = target + c * strides.channel;
    const float* other = beside ? beside + c * strides.channel : nullptr;
    if (shape.rows == 1 && strides.column == 1)
      write_sum(source, pixels, other ? other + first : nullptr, channel + first);
    else
      for_each_pixel(strides, shape.columns, first, pixels,
                     [&](int64_t i, int64_t at) { channel[at] = other ? source[i] + other[at] : source[i]; });
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
