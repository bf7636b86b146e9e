// The loops over tiles, samples and slices, for one instruction set. Included like simd.h, after tile.h and the
// methods.
//
// A method (Direct, Harmonic3) says what happens to the tile in registers:
//   prepare(weight)            once a tile, before its samples (a change of basis)
//   shift(...)                 out <- the slice of one sample
//   shift_backward(...)        adds one slice's part to grad_weight and to the sums, either of which may be null
//   finish(grad_weight)        once a tile, after its samples: the transpose of prepare
//   grad_shift(sums, out)      one sample's three numbers, once a chunk
//
// Floor in bytes: the weight is read once for all samples of an item, the output written once; backward reads grad and
// weight once and writes grad_weight once.

template <typename Method>
void forward(const ForwardPlan<typename Method::Acc>& plan, int64_t begin, int64_t end) {
  using Acc = typename Method::Acc;
  const Method method(plan);
  const int volume = plan.weight.count, rows = plan.out.count;
  constexpr int lanes = kLanes<Acc>;
  auto* weight = static_cast<Vector<Acc>*>(allocate_scratch(sizeof(Vector<Acc>) * (2 * volume + 2 * rows)));
  Vector<Acc>* out = weight + volume;
  auto* run = reinterpret_cast<Acc*>(out + rows);
  const int64_t tiles = (plan.pairs + lanes - 1) / lanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item % tiles * lanes, first_sample = item / tiles * plan.samples_per_item;
    const int64_t left = plan.pairs - first, samples_left = plan.shape.samples - first_sample;
    const Tile<Acc> tile{first, static_cast<int>(left < lanes ? left : lanes), run};
    load_tile(plan.weight, plan.shape.in_channels, tile, 0, weight);
    method.prepare(weight);
    const int64_t last = first_sample + (samples_left < plan.samples_per_item ? samples_left : plan.samples_per_item);
    for (int64_t sample = first_sample; sample < last; ++sample) {
      for (int slice = 0; slice < plan.shape.slices; ++slice)
        method.shift(sample, plan.shape.first_slice + slice, weight, out + slice * method.plane());
      store_tile(plan.out, plan.shape.in_channels, tile, sample, out);
    }
  }
  free_scratch(weight);
}

template <typename Method>
void backward(const BackwardPlan<typename Method::Acc>& plan, int64_t begin, int64_t end) {
  using Acc = typename Method::Acc;
  const Method method(plan);
  const int volume = plan.weight.count, rows = plan.grad.count, sums = method.sums();
  const int64_t samples = plan.shape.samples, in_channels = plan.shape.in_channels;
  constexpr int lanes = kLanes<Acc>;
  const bool want_weight = plan.grad_weight.data != nullptr, want_shift = plan.partial != nullptr;
  const int64_t all_sums = want_shift ? samples * sums : 0;
  auto* weight = static_cast<Vector<Acc>*>(allocate_scratch(sizeof(Vector<Acc>) * (3 * volume + rows + all_sums)));
  Vector<Acc>*grad_weight = weight + volume, *grad = grad_weight + volume, *shift_sums = grad + rows;
  auto* run = reinterpret_cast<Acc*>(shift_sums + all_sums);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = chunk * plan.pairs_per_chunk, stop = first + plan.pairs_per_chunk;
    __builtin_memset(shift_sums, 0, sizeof(Vector<Acc>) * all_sums);
    for (int64_t pair = first; pair < stop && pair < plan.pairs; pair += lanes) {
      const int64_t left = (plan.pairs < stop ? plan.pairs : stop) - pair;
      const Tile<Acc> tile{pair, static_cast<int>(left < lanes ? left : lanes), run};
      if (want_shift) {  // the weight's own gradient does not depend on it
        load_tile(plan.weight, in_channels, tile, 0, weight);
        method.prepare(weight);
      }
      if (want_weight) __builtin_memset(grad_weight, 0, sizeof(Vector<Acc>) * volume);
      for (int64_t sample = 0; sample < samples; ++sample) {
        load_tile(plan.grad, in_channels, tile, sample, grad);
        for (int slice = 0; slice < plan.shape.slices; ++slice)
          method.shift_backward(sample, plan.shape.first_slice + slice, grad + slice * method.plane(), weight,
                                want_weight ? grad_weight : nullptr, want_shift ? shift_sums + sample * sums : nullptr);
      }
      if (!want_weight) continue;
      method.finish(grad_weight);
      store_tile(plan.grad_weight, in_channels, tile, 0, grad_weight);
    }
    for (int64_t sample = 0; sample < samples && want_shift; ++sample)
      method.grad_shift(sample, shift_sums + sample * sums, plan.partial + (chunk * samples + sample) * 3);
  }
  free_scratch(weight);
}

// Cubic 3 in its own basis; 5 and 7 with their size known to the compiler; two or more even axes need complex taps.
#define CROSSD_FOR_METHOD(shape, Acc, FUNCTION, ...)                                  \
  const int32_t* k = (shape).kernel;                                                  \
  const bool cubic = k[0] == k[1] && k[0] == k[2];                                    \
  const int even_axes = (k[0] % 2 == 0) + (k[1] % 2 == 0) + (k[2] % 2 == 0);          \
  if (cubic && k[0] == 3) return FUNCTION<Harmonic3<Acc>>(__VA_ARGS__);               \
  if (cubic && k[0] == 5) return FUNCTION<Direct<Acc, Cubic<5>, false>>(__VA_ARGS__); \
  if (cubic && k[0] == 7) return FUNCTION<Direct<Acc, Cubic<7>, false>>(__VA_ARGS__); \
  if (even_axes >= 2) return FUNCTION<Direct<Acc, AnySize, true>>(__VA_ARGS__);       \
  return FUNCTION<Direct<Acc, AnySize, false>>(__VA_ARGS__);

template <typename Acc>
void forward_any(const ForwardPlan<Acc>& plan, int64_t begin, int64_t end) {
  CROSSD_FOR_METHOD(plan.shape, Acc, forward, plan, begin, end)
}
template <typename Acc>
void backward_any(const BackwardPlan<Acc>& plan, int64_t begin, int64_t end) {
  CROSSD_FOR_METHOD(plan.shape, Acc, backward, plan, begin, end)
}

constexpr Kernels kKernels{kLanes<float>,       kLanes<double>,      forward_any<float>,
                           forward_any<double>, backward_any<float>, backward_any<double>};
