// The passes over a map, for one instruction set. Included like simd.h, after element.h and exponential.h.
//
//   pool:          maximum = max m,  sum = sum exp(m - maximum),  weighted = sum m exp(m - maximum)   of each channel
//   map_gradient:  grad = scale exp(m - maximum) (1 + m - v)
//
// Blocks of a part stay in the first cache, so that memory is read once: the maximum of a block first, then its sums,
// which are joined to those of the blocks before. kPeriod is the number of channels that lie side by side in a run: 4
// interleaved, else 1. Floor in bytes: pool reads the map once; map_gradient reads it once and writes its gradient
// once.

constexpr int64_t kBlock = 2048;  // elements

template <typename Acc>
inline Vector<Acc> every_lane(Acc value) {
  return Vector<Acc>{} + value;
}
template <typename Acc>
inline Vector<Acc> load_vector(const Acc* source) {
  Vector<Acc> v;
  __builtin_memcpy(&v, source, sizeof v);
  return v;
}
// The first lanes from memory, the others from `rest`.
template <typename Acc>
inline Vector<Acc> load_lanes(const Acc* source, int64_t lanes, Vector<Acc> rest) {
  __builtin_memcpy(&rest, source, sizeof(Acc) * lanes);
  return rest;
}
template <typename AnyVector>
inline AnyVector larger(AnyVector a, AnyVector b) {
  return a > b ? a : b;  // b where a is NaN
}
template <typename Acc>
constexpr Acc lowest() {
  return sizeof(Acc) == 8 ? static_cast<Acc>(-__DBL_MAX__) : static_cast<Acc>(-__FLT_MAX__);
}

// Finite where every element is -inf, so that exp(m - maximum) is 0 there and not NaN. An element that is NaN is passed
// over here and makes the sums NaN.
template <int kPeriod, typename Acc>
inline void maximum_of_run(const Acc* run, int64_t n, Acc* maximum) {
  constexpr int lanes = kLanes<Acc>;
  const Vector<Acc> nothing = every_lane(lowest<Acc>());
  Vector<Acc> a = nothing, b = nothing, c = nothing, d = nothing;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = larger(load_vector(run + i), a), b = larger(load_vector(run + i + lanes), b);
    c = larger(load_vector(run + i + 2 * lanes), c), d = larger(load_vector(run + i + 3 * lanes), d);
  }
  for (; i + lanes <= n; i += lanes) a = larger(load_vector(run + i), a);
  if (i < n) b = larger(load_lanes(run + i, n - i, nothing), b);
  a = larger(larger(a, b), larger(c, d));
  for (int channel = 0; channel < kPeriod; ++channel) maximum[channel] = a[channel];
  for (int lane = kPeriod; lane < lanes; ++lane)
    if (a[lane] > maximum[lane % kPeriod]) maximum[lane % kPeriod] = a[lane];
}

inline void join(Pooled& total, const Pooled& other) {
  if (other.maximum > total.maximum) {
    const double factor = __builtin_exp(total.maximum - other.maximum);
    total = {other.maximum, total.sum * factor + other.sum, total.weighted * factor + other.weighted};
  } else {
    const double factor = other.maximum == total.maximum ? 1.0 : __builtin_exp(other.maximum - total.maximum);
    total.sum += other.sum * factor, total.weighted += other.weighted * factor;
  }
}

template <int kPeriod, typename Acc>
inline void pool_run(const Acc* run, int64_t n, Pooled* pooled) {
  constexpr int lanes = kLanes<Acc>;
  Acc maximum[kPeriod];
  maximum_of_run<kPeriod>(run, n, maximum);
  Vector<Acc> largest, index, sum{}, sum2{}, weighted{}, weighted2{};
  for (int lane = 0; lane < lanes; ++lane)
    largest[lane] = maximum[lane % kPeriod], index[lane] = static_cast<Acc>(lane);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const Vector<Acc> m = load_vector(run + i), m2 = load_vector(run + i + lanes);
    const Vector<Acc> e = exponential(m - largest), e2 = exponential(m2 - largest);
    sum += e, weighted += e * m;
    sum2 += e2, weighted2 += e2 * m2;
  }
  for (; i < n; i += lanes) {
    const int64_t left = n - i < lanes ? n - i : lanes;
    const Vector<Acc> m = load_lanes(run + i, left, largest);
    const Vector<Acc> e = index < every_lane(static_cast<Acc>(left)) ? exponential(m - largest) : Vector<Acc>{};
    sum += e, weighted += e * m;
  }
  sum += sum2, weighted += weighted2;
  Pooled of_run[kPeriod];
  for (int channel = 0; channel < kPeriod; ++channel) of_run[channel] = {maximum[channel], 0, 0};
  for (int lane = 0; lane < lanes; ++lane)
    of_run[lane % kPeriod].sum += sum[lane], of_run[lane % kPeriod].weighted += weighted[lane];
  for (int channel = 0; channel < kPeriod; ++channel) join(pooled[channel], of_run[channel]);
}

// grad may be run itself.
template <int kPeriod, typename Acc>
inline void gradient_run(const Acc* run, int64_t n, const ChannelGradient* channels, Acc* grad) {
  constexpr int lanes = kLanes<Acc>;
  Vector<Acc> maximum, scale, v;
  for (int lane = 0; lane < lanes; ++lane) {
    const ChannelGradient& channel = channels[lane % kPeriod];
    maximum[lane] = static_cast<Acc>(channel.maximum), scale[lane] = static_cast<Acc>(channel.scale),
    v[lane] = static_cast<Acc>(channel.v);
  }
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vector<Acc> m = load_vector(run + i);
    const Vector<Acc> g = scale * exponential(m - maximum) * ((m - v) + static_cast<Acc>(1));
    __builtin_memcpy(grad + i, &g, sizeof g);
  }
  if (i == n) return;
  const Vector<Acc> m = load_lanes(run + i, n - i, maximum);
  const Vector<Acc> g = scale * exponential(m - maximum) * ((m - v) + static_cast<Acc>(1));
  __builtin_memcpy(grad + i, &g, sizeof(Acc) * (n - i));
}

// Neighbouring elements as Acc: where they lie, or converted into the buffer.
template <typename Acc, typename T>
inline const Acc* as_run(const T* source, int64_t n, Acc* buffer) {
  read_run(source, n, buffer);
  return buffer;
}
template <typename Acc>
inline const Acc* as_run(const Acc* source, int64_t, Acc*) {
  return source;
}

template <typename Body>
inline void for_each_pixel(const MapStrides& strides, int64_t columns, int64_t first, int64_t n, Body body) {
  int64_t row = first / columns, column = first % columns;
  for (int64_t i = 0; i < n; ++i) {
    body(i, row * strides.row + column * strides.column);
    if (++column == columns) column = 0, ++row;
  }
}
template <typename Acc, typename T>
inline const Acc* gather(const T* channel, const MapStrides& strides, int64_t columns, int64_t first, int64_t n,
                         Acc* buffer) {
  for_each_pixel(strides, columns, first, n, [&](int64_t i, int64_t at) { buffer[i] = read<Acc>(channel[at]); });
  return buffer;
}

struct PartRange {
  int64_t sample, first, last;  // pixels first .. last - 1
};
inline PartRange range_of(const Parts& parts, int64_t item) {
  const int64_t first = item % parts.count * parts.pixels_per_part, last = first + parts.pixels_per_part;
  return {item / parts.count, first, last < parts.pixels ? last : parts.pixels};
}

// A vector of two float64 holds no whole pixel: such a map is gathered.
template <typename Acc>
constexpr bool kTakesInterleaved = kLanes<Acc> % kHeadChannels == 0;

template <typename Acc, typename T>
inline void pool_part(const PoolPlan& plan, int64_t item, Pooled* pooled) {
  alignas(64) Acc buffer[kBlock];
  const PartRange range = range_of(plan.parts, item);
  const T* map = static_cast<const T*>(plan.map) + range.sample * plan.strides.sample;
  for (int channel = 0; channel < kHeadChannels; ++channel) pooled[channel] = {lowest<double>(), 0, 0};
  const bool interleaved = kTakesInterleaved<Acc> && plan.order == PixelOrder::interleaved;
  const int64_t step = interleaved ? kBlock / kHeadChannels : kBlock;
  for (int64_t first = range.first; first < range.last; first += step) {
    const int64_t n = range.last - first < step ? range.last - first : step;
    if constexpr (kTakesInterleaved<Acc>) {
      if (interleaved) {
        pool_run<kHeadChannels>(as_run(map + first * kHeadChannels, n * kHeadChannels, buffer), n * kHeadChannels,
                                pooled);
        continue;
      }
    }
    for (int channel = 0; channel < kHeadChannels; ++channel) {
      const T* source = map + channel * plan.strides.channel;
      const Acc* run = plan.order == PixelOrder::planar
                           ? as_run(source + first, n, buffer)
                           : gather(source, plan.strides, plan.parts.columns, first, n, buffer);
      pool_run<1>(run, n, pooled + channel);
    }
  }
}

// Writes the gradient of a run where both tensors have it, through the buffer where the dtype is another.
template <int kPeriod, typename Acc, typename T>
inline void gradient_of_run(const T* map, int64_t n, const ChannelGradient* channels, T* grad, Acc* buffer) {
  gradient_run<kPeriod>(as_run(map, n, buffer), n, channels, buffer);
  write_run(static_cast<const Acc*>(buffer), n, grad);
}
template <int kPeriod, typename Acc>
inline void gradient_of_run(const Acc* map, int64_t n, const ChannelGradient* channels, Acc* grad, Acc*) {
  gradient_run<kPeriod>(map, n, channels, grad);
}

template <typename Acc, typename T>
inline void gradient_part(const MapGradientPlan& plan, int64_t item, const ChannelGradient* channels) {
  alignas(64) Acc buffer[kBlock];
  const PartRange range = range_of(plan.parts, item);
  const T* map = static_cast<const T*>(plan.map) + range.sample * plan.strides.sample;
  T* grad_map = static_cast<T*>(plan.grad_map) + range.sample * plan.grad_strides.sample;
  const bool interleaved = kTakesInterleaved<Acc> && plan.order == PixelOrder::interleaved;
  const int64_t step = interleaved ? kBlock / kHeadChannels : kBlock;
  for (int64_t first = range.first; first < range.last; first += step) {
    const int64_t n = range.last - first < step ? range.last - first : step;
    if constexpr (kTakesInterleaved<Acc>) {
      if (interleaved) {
        const int64_t at = first * kHeadChannels;
        gradient_of_run<kHeadChannels>(map + at, n * kHeadChannels, channels, grad_map + at, buffer);
        continue;
      }
    }
    for (int channel = 0; channel < kHeadChannels; ++channel) {
      const T* source = map + channel * plan.strides.channel;
      T* target = grad_map + channel * plan.grad_strides.channel;
      if (plan.order == PixelOrder::planar) {
        gradient_of_run<1>(source + first, n, channels + channel, target + first, buffer);
        continue;
      }
      gradient_run<1>(gather(source, plan.strides, plan.parts.columns, first, n, buffer), n, channels + channel,
                      buffer);
      for_each_pixel(plan.grad_strides, plan.parts.columns, first, n,
                     [&](int64_t i, int64_t at) { target[at] = Write<T, Acc>::from(buffer[i]); });
    }
  }
}

template <typename Acc>
void pool(const PoolPlan& plan, int64_t item, Pooled* pooled) {
  CROSSD_FOR_DTYPE(plan.dtype, T, pool_part<Acc, T>(plan, item, pooled))
}
template <typename Acc>
void map_gradient(const MapGradientPlan& plan, int64_t item, const ChannelGradient* channels) {
  CROSSD_FOR_DTYPE(plan.dtype, T, gradient_part<Acc, T>(plan, item, channels))
}

constexpr RotationHeadKernels kRotationHeadKernels{pool<float>, pool<double>, map_gradient<float>,
                                                   map_gradient<double>};
