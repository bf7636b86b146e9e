// The backward pass of the whole head, for one instruction set. Included like simd.h, after kernels.h.
//
// The gradient of a hidden channel needs sums over all pixels where the statistics are the batch's, so training takes
// two passes over the input: the sums, then the gradients. Floor in bytes: the input once a pass, the gradient of the
// input written once. Scores and gradients of a tile are computed again in each pass and stay in the cache.

struct LaneSums {
  Floats grad[kHiddenChannels], grad_normalised[kHiddenChannels], grad_weight2[kHiddenChannels][kHeadChannels];
};

// g_z, from the gradient of the scores.
inline Floats grad_of_hidden(const HeadPlan& plan, int h, const Floats* grad_scores, Floats z) {
  const Floats zero{};
  Floats grad = plan.weight2[h] * grad_scores[0];
#pragma GCC unroll 4
  for (int s = 1; s < kHeadChannels; ++s) grad += plan.weight2[s * kHiddenChannels + h] * grad_scores[s];
  return z <= zero ? zero : grad;
}

inline void load_scores(const float* grad_scores, int64_t p, Floats* grads) {
#pragma GCC unroll 4
  for (int s = 0; s < kHeadChannels; ++s) grads[s] = load_vector(grad_scores + s * kTilePixels + p);
}

// Pixels beyond the last have a gradient of 0 and add nothing.
inline void add_sums(const HeadPlan& plan, const float* normalised, const float* grad_scores, int64_t pixels,
                     LaneSums& sums) {
  for (int h = 0; h < kHiddenChannels; ++h) {
    Floats grad = sums.grad[h], grad_normalised = sums.grad_normalised[h], weight2[kHeadChannels];
    for (int s = 0; s < kHeadChannels; ++s) weight2[s] = sums.grad_weight2[h][s];
    for (int64_t p = 0; p < pixels; p += kLanes<float>) {
      Floats grads[kHeadChannels];
      load_scores(grad_scores, p, grads);
      const Floats n = load_vector(normalised + h * kTilePixels + p), z = before_rectifier(plan, h, n);
      const Floats g = grad_of_hidden(plan, h, grads, z), r = rectified(z);
      grad += g, grad_normalised += g * n;
#pragma GCC unroll 4
      for (int s = 0; s < kHeadChannels; ++s) weight2[s] += grads[s] * r;
    }
    sums.grad[h] = grad, sums.grad_normalised[h] = grad_normalised;
    for (int s = 0; s < kHeadChannels; ++s) sums.grad_weight2[h][s] = weight2[s];
  }
}

inline void join_sums(const LaneSums& lanes, HiddenSums& sums) {
  for (int h = 0; h < kHiddenChannels; ++h) {
    sums.grad[h] += sum_of_lanes<float>(lanes.grad[h]);
    sums.grad_normalised[h] += sum_of_lanes<float>(lanes.grad_normalised[h]);
    for (int s = 0; s < kHeadChannels; ++s) sums.grad_weight2[s][h] += sum_of_lanes<float>(lanes.grad_weight2[h][s]);
  }
}

// Puts the gradient of weight x + bias in the place of the normalised values.
inline void grad_of_normalised(const HeadGradientPlan& plan, const float* grad_scores, int64_t pixels, float* hidden) {
  for (int h = 0; h < kHiddenChannels; ++h) {
    for (int64_t p = 0; p < pixels; p += kLanes<float>) {
      Floats grads[kHeadChannels];
      load_scores(grad_scores, p, grads);
      float* at = hidden + h * kTilePixels + p;
      const Floats n = load_vector(at), g = grad_of_hidden(plan.head, h, grads, before_rectifier(plan.head, h, n));
      store_vector(at, plan.head.gain[h] * g - (plan.mean_product[h] * n + plan.mean_grad[h]));
    }
  }
}

// transposed[p][h] <- hidden[h][p]
inline void transpose_hidden(const float* hidden, int64_t pixels, float* transposed) {
  for (int h = 0; h < kHiddenChannels; h += 4) {
    for (int64_t p = 0; p < pixels; p += kLanes<float>) {
      const float* at = hidden + h * kTilePixels + p;
      Floats a = load_vector(at), b = load_vector(at + kTilePixels), c = load_vector(at + 2 * kTilePixels),
             d = load_vector(at + 3 * kTilePixels);
      transpose_4x4(a, b, c, d);
      float* target = transposed + p * kHiddenChannels + h;
      constexpr int64_t pixel = kHiddenChannels, block = 4 * pixel;
      store_quads(target, block, a), store_quads(target + pixel, block, b);
      store_quads(target + 2 * pixel, block, c), store_quads(target + 3 * pixel, block, d);
    }
  }
}

// grad_weight[c][h] += sum_p x[c][p] grad[p][h] for some channels. Several pixels at once where the channels are few:
// one sum alone would wait for itself.
template <int kChannels, int kPixels>
inline void outer_product_block(const InputTile& x, int64_t c, const float* transposed, float* grad_weight) {
  constexpr int vectors = kHiddenChannels / kLanes<float>;
  Floats sum[kPixels][kChannels][vectors] = {};
  const float* source = x.data + c * x.stride;
  const auto add = [&](int64_t p, Floats(&to)[kChannels][vectors]) {
#pragma GCC unroll 16
    for (int i = 0; i < kChannels; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v)
        to[i][v] += source[i * x.stride + p] * load_vector(transposed + p * kHiddenChannels + v * kLanes<float>);
  };
  int64_t p = 0;
  for (; p + kPixels <= x.pixels; p += kPixels)
#pragma GCC unroll 8
    for (int j = 0; j < kPixels; ++j) add(p + j, sum[j]);
  for (; p < x.pixels; ++p) add(p, sum[0]);
  for (int i = 0; i < kChannels; ++i) {
    for (int v = 0; v < vectors; ++v) {
      float* target = grad_weight + (c + i) * kHiddenChannels + v * kLanes<float>;
      Floats total = load_vector(target);
      for (int j = 0; j < kPixels; ++j) total += sum[j][i][v];
      store_vector(target, total);
    }
  }
}

inline void outer_product(const InputTile& x, int64_t channels, const float* transposed, float* grad_weight) {
  constexpr int block = CROSSD_VECTOR_BYTES == 64 ? 16 : CROSSD_VECTOR_BYTES == 32 ? 4 : 2;
  constexpr int pixels = CROSSD_VECTOR_BYTES == 64 ? 8 : CROSSD_VECTOR_BYTES == 32 ? 4 : 2;
  int64_t c = 0;
  for (; c + block <= channels; c += block) outer_product_block<block, 1>(x, c, transposed, grad_weight);
  for (; c < channels; ++c) outer_product_block<1, pixels>(x, c, transposed, grad_weight);
}

// target[c][p] = sum_h weight[c][h] grad[h][p] + beside[c][p] for some channels; beside may be null.
template <int kChannels>
inline void grad_input_block(const float* weight, const float* grad, int64_t pixels, const float* beside, float* target,
                             int64_t stride) {
  for (int64_t p = 0; p < pixels; p += kLanes<float>) {
    Floats sum[kChannels] = {};
#pragma GCC unroll 16
    for (int h = 0; h < kHiddenChannels; ++h) {
      const Floats g = load_vector(grad + h * kTilePixels + p);
#pragma GCC unroll 8
      for (int i = 0; i < kChannels; ++i) sum[i] += weight[i * kHiddenChannels + h] * g;
    }
    for (int i = 0; i < kChannels; ++i) {
      if (beside) sum[i] += load_vector(beside + i * stride + p);
      store_vector(target + i * stride + p, sum[i]);
    }
  }
}

// What stands beside the gradient is added where the tile is written to the tensor.
inline void grad_input_tile(const HeadGradientPlan& plan, int64_t sample, int64_t first, int64_t pixels,
                            const HeadScratch& scratch) {
  const HeadPlan& head = plan.head;
  const int64_t at = sample * plan.grad_strides.sample;
  const bool planar = is_planar(head, plan.grad_strides, pixels);
  float* target = planar ? static_cast<float*>(plan.grad_input) + at + first : scratch.grad_packed;
  const float* added = planar && plan.grad_beside ? static_cast<const float*>(plan.grad_beside) + at + first : nullptr;
  const int64_t stride = planar ? plan.grad_strides.channel : padded(pixels);
  constexpr int block = 8;
  for (int64_t c = 0; c < head.channels;) {
    const float *weight = head.weight + c * kHiddenChannels, *other = added ? added + c * stride : nullptr;
    if (c + block <= head.channels)
      grad_input_block<block>(weight, scratch.hidden, pixels, other, target + c * stride, stride), c += block;
    else
      grad_input_block<1>(weight, scratch.hidden, pixels, other, target + c * stride, stride), ++c;
  }
  if (planar) return;
  for_element_type(head.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* beside = plan.grad_beside ? static_cast<const T*>(plan.grad_beside) + at : nullptr;
    write_tile(head, plan.grad_strides, target, stride, first, pixels, beside, static_cast<T*>(plan.grad_input) + at);
  });
}

// So many sums of one lane stay exact enough in float32.
constexpr int kTilesPerSum = 16;

void head_backward(const HeadGradientPlan& plan, int64_t begin, int64_t end, HiddenSums* sums, float* grad_weight) {
  const HeadPlan& head = plan.head;
  const HeadScratch scratch(head);
  if (sums) *sums = {};
  LaneSums lanes{};
  int tiles = 0;
  for_each_tile(head, begin, end, scratch, [&](int64_t sample, int64_t first, const InputTile& x) {
    hidden_tile(head, x, scratch.hidden);
    scores_tile(head, scratch.hidden, x.pixels, scratch.scores);
    for (int s = 0; s < kHeadChannels; ++s) {
      float* grads = scratch.grad_scores + s * kTilePixels;
      gradient_run<1>(scratch.scores + s * kTilePixels, x.pixels, plan.channels + sample * kHeadChannels + s, grads);
      __builtin_memset(grads + x.pixels, 0, sizeof(float) * (padded(x.pixels) - x.pixels));
    }
    if (sums) {
      add_sums(head, scratch.hidden, scratch.grad_scores, x.pixels, lanes);
      if (++tiles % kTilesPerSum == 0) join_sums(lanes, *sums), lanes = {};
    }
    if (!grad_weight && !plan.grad_input) return;
    grad_of_normalised(plan, scratch.grad_scores, x.pixels, scratch.hidden);
    if (grad_weight) {
      transpose_hidden(scratch.hidden, x.pixels, scratch.transposed);
      outer_product(x, head.channels, scratch.transposed, grad_weight);
    }
    if (plan.grad_input) grad_input_tile(plan, sample, first, x.pixels, scratch);
  });
  if (sums) join_sums(lanes, *sums);
}

void read_values(const void* source, Dtype dtype, int64_t count, float* target) {
  for_element_type(dtype, [&](auto zero) { read_run(static_cast<const decltype(zero)*>(source), count, target); });
}
void write_values(const float* source, int64_t count, void* target, Dtype dtype) {
  for_element_type(dtype, [&](auto zero) { write_run(source, count, static_cast<decltype(zero)*>(target)); });
}

constexpr HeadKernels kHeadKernels{moments, pool_input, head_backward, read_values, write_values};
