// The rotation head: from a map to each sample's shift, and back.
//
//   v_c = sum_p exp(m_c,p - maximum_c) m_c,p / sum_p exp(m_c,p - maximum_c),   s = shift_of_rotation(v)
//   dL/dm_c,p = dL/dv_c exp(m_c,p - maximum_c) / sum_c (1 + m_c,p - v_c)
//
// Forward: one pass, each thread with a maximum of its own so far; the threads' sums are joined by shuffles, then
// through shared memory, in an order that depends on the shape alone. A block takes all four channels of a range of
// pixels, so that an interleaved map is read once. Where one block does for a sample it also writes the sample's
// results; else the blocks leave partial sums for rotation_head_finish. Floor in bytes: the map once forward; backward
// the map and its gradient once.
#pragma once
#include <cfloat>

#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "head/rotation_math.h"
#include "head/rotation_problem.h"

namespace crossd_ops::cuda {

constexpr int kHeadThreads = 256;
constexpr int kHeadWarps = kHeadThreads / kLanes;

// A range of each sample's pixels for every block: blockIdx.x = sample * count + part.
struct HeadParts {
  int count;
  int64_t pixels;
};
struct PixelRange {
  int64_t sample, first, last;
};
template <typename Index>
__device__ __forceinline__ PixelRange range_of(HeadParts parts, const MapShape& shape, Index index) {
  const int64_t sample = index / parts.count, first = index % parts.count * parts.pixels;
  const int64_t last = first + parts.pixels, pixels = shape.rows * shape.columns;
  return {sample, first, last < pixels ? last : pixels};
}
__device__ __forceinline__ PixelRange range_of_block(HeadParts parts, const MapShape& shape) {
  return range_of(parts, shape, blockIdx.x);
}

// The softmax-weighted sum of the elements so far. The first maximum is finite, so that exp(m - maximum) is 0 and not
// NaN where every element is -inf.
template <typename Acc>
struct Pooled {
  Acc maximum = sizeof(Acc) == 8 ? static_cast<Acc>(-DBL_MAX) : static_cast<Acc>(-FLT_MAX), sum = 0, weighted = 0;

  __device__ __forceinline__ void raise(Acc to) {  // what is NaN or smaller changes nothing
    if (!(to > maximum)) return;
    const Acc factor = std::exp(maximum - to);
    sum *= factor, weighted *= factor, maximum = to;
  }
  __device__ __forceinline__ void add(Acc element) {
    raise(element);
    add_below(element);
  }
  __device__ __forceinline__ void add_below(Acc element) {  // no larger than the maximum
    const Acc e = std::exp(element - maximum);
    sum += e, weighted += e * element;
  }
  __device__ __forceinline__ void add(Pooled other) {
    raise(other.maximum);
    const Acc factor = std::exp(other.maximum - maximum);
    sum += factor * other.sum, weighted += factor * other.weighted;
  }
};

// After it lane i < nearest holds the sum over the lanes i, i + nearest, i + 2 nearest ...
template <typename Acc>
__device__ __forceinline__ void join_lanes(Pooled<Acc>& pooled, int nearest) {
  for (int distance = kLanes / 2; distance >= nearest; distance /= 2) {
    Pooled<Acc> other;
    other.maximum = __shfl_xor_sync(kAllLanes, pooled.maximum, distance);
    other.sum = __shfl_xor_sync(kAllLanes, pooled.sum, distance);
    other.weighted = __shfl_xor_sync(kAllLanes, pooled.weighted, distance);
    pooled.add(other);
  }
}

// By one warp: lane c < 4 gets the sum of channel c.
template <typename Acc>
__device__ __forceinline__ Pooled<Acc> join_parts(const Acc* parts, int count) {  // [count, 4, 3]
  const int lane = threadIdx.x % kLanes;
  Pooled<Acc> total;
  for (int part = lane / kHeadChannels; part < count; part += kLanes / kHeadChannels) {
    const Acc* at = parts + (part * kHeadChannels + lane % kHeadChannels) * 3;
    Pooled<Acc> one;
    one.maximum = at[0], one.sum = at[1], one.weighted = at[2];
    total.add(one);
  }
  join_lanes(total, kHeadChannels);
  return total;
}

// By one warp, whose lane c < 4 holds the sum of channel c.
template <typename Acc>
__device__ __forceinline__ void finish_sample(const RotationHeadForward& problem, int64_t sample,
                                              const Pooled<Acc>& total) {
  const int lane = threadIdx.x % kLanes;
  const Acc pooled = total.weighted / total.sum;
  double v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) v[channel] = __shfl_sync(kAllLanes, pooled, channel);
  if (lane < kHeadChannels) {
    Acc* statistics = static_cast<Acc*>(problem.statistics) + (sample * kHeadChannels + lane) * 3;
    statistics[0] = total.maximum, statistics[1] = total.sum, statistics[2] = pooled;
  }
  if (lane != 0) return;
  const Vector3 shift = shift_of_rotation(v, problem.exact);
  Acc* target = static_cast<Acc*>(problem.shift) + sample * 3;
  target[0] = static_cast<Acc>(shift.x), target[1] = static_cast<Acc>(shift.y), target[2] = static_cast<Acc>(shift.z);
}

// Elements of T up to `address` since the last 16-byte boundary.
template <typename T>
__device__ __forceinline__ int64_t past_boundary(const T* address) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(address) % kVectorBytes / sizeof(T));
}
template <typename T>
struct alignas(kVectorBytes) Pack {
  static constexpr int size = kVectorBytes / sizeof(T);
  T elements[size];
};

// What a thread works on in a dense map: a run that `threads` threads share, and the channel of its first element.
// kPeriod channels lie side by side in it.
template <PixelOrder kOrder>
struct Share {
  static constexpr int kPeriod = kOrder == PixelOrder::interleaved ? kHeadChannels : 1;
  static constexpr int kThreads = kHeadThreads / kHeadChannels * kPeriod;
  int channel, thread;
  __device__ Share()
      : channel(kPeriod == 1 ? threadIdx.x / kLanes % kHeadChannels : 0),
        thread(kPeriod == 1 ? threadIdx.x / kLanes / kHeadChannels * kLanes + threadIdx.x % kLanes : threadIdx.x) {}
};

__device__ __forceinline__ int64_t offset_of(const MapStrides& strides, int64_t columns, int64_t pixel) {
  return pixel / columns * strides.row + pixel % columns * strides.column;
}

// Adds this thread's share of elements begin .. end - 1 of a run; element i belongs to pooled[i % kPeriod]. Interleaved
// runs begin at a pixel, and pixels do not straddle a 16-byte boundary.
template <PixelOrder kOrder, typename Acc, typename T>
__device__ __forceinline__ void pool_run(const Share<kOrder>& share, const T* run, int64_t begin, int64_t end,
                                         Pooled<Acc>* pooled) {
  constexpr int size = Pack<T>::size;
  for (int64_t i = begin - past_boundary(run + begin) + share.thread * size; i < end; i += share.kThreads * size) {
    const bool whole = i >= begin && i + size <= end;
    Pack<T> pack;
    if (whole) pack = *reinterpret_cast<const Pack<T>*>(run + i);
#pragma unroll
    for (int j = 0; j < size; ++j)
      if (!whole && i + j >= begin && i + j < end) pack.elements[j] = run[i + j];
    if (whole && share.kPeriod == 1) {  // one new maximum for all
      Acc largest = load_element<Acc>(&pack.elements[0]);
#pragma unroll
      for (int j = 1; j < size; ++j) largest = fmax(largest, load_element<Acc>(&pack.elements[j]));
      pooled[0].raise(largest);
    }
#pragma unroll
    for (int j = 0; j < size; ++j)
      if (whole || (i + j >= begin && i + j < end)) pooled[j % share.kPeriod].add(load_element<Acc>(&pack.elements[j]));
  }
}

// dynamic shared memory: kHeadWarps * 4 * 3 elements.
template <typename Acc, typename T, PixelOrder kOrder>
__global__ void __launch_bounds__(kHeadThreads) rotation_head_pool(RotationHeadForward problem, HeadParts parts) {
  const PixelRange range = range_of_block(parts, problem.shape);
  const Share<kOrder> share;
  const MapStrides& strides = problem.map_strides;
  const T* map = static_cast<const T*>(problem.map) + range.sample * strides.sample + share.channel * strides.channel;
  constexpr int kPeriod = Share<kOrder>::kPeriod;
  Pooled<Acc> pooled[kPeriod];
  if constexpr (kOrder == PixelOrder::strided) {
    for (int64_t pixel = range.first + share.thread; pixel < range.last; pixel += share.kThreads)
      pooled[0].add(load_element<Acc>(map + offset_of(strides, problem.shape.columns, pixel)));
  } else {
    pool_run(share, map, range.first * kPeriod, range.last * kPeriod, pooled);
  }
  Acc* shared = dynamic_shared<Acc>();  // [parts of a block, 4, 3]
  const int warp = threadIdx.x / kLanes, first = (kPeriod == 1 ? warp : warp * kHeadChannels) * 3;
#pragma unroll
  for (int i = 0; i < kPeriod; ++i) {
    join_lanes(pooled[i], 1);
    if (threadIdx.x % kLanes != 0) continue;
    Acc* target = shared + first + i * 3;
    target[0] = pooled[i].maximum, target[1] = pooled[i].sum, target[2] = pooled[i].weighted;
  }
  __syncthreads();
  if (warp != 0) return;
  const Pooled<Acc> total = join_parts(shared, kHeadWarps * kPeriod / kHeadChannels);
  if (parts.count == 1) return finish_sample(problem, range.sample, total);
  if (threadIdx.x >= kHeadChannels) return;
  Acc* target =
      static_cast<Acc*>(problem.partial) + (static_cast<int64_t>(blockIdx.x) * kHeadChannels + threadIdx.x) * 3;
  target[0] = total.maximum, target[1] = total.sum, target[2] = total.weighted;
}

// One warp for each sample; problem.partial: [B, parts, 4, 3].
template <typename Acc>
__global__ void __launch_bounds__(kLanes) rotation_head_finish(RotationHeadForward problem, int parts) {
  const int64_t sample = blockIdx.x;
  finish_sample(problem, sample,
                join_parts(static_cast<const Acc*>(problem.partial) + sample * parts * kHeadChannels * 3, parts));
}

template <typename Acc>
struct ChannelGradient {
  Acc maximum, scale, v;
  __device__ __forceinline__ Acc at(Acc element) const {
    return scale * std::exp(element - maximum) * ((element - v) + 1);
  }
};

// The gradient of elements begin .. end - 1 of a run. Loads are one step ahead of the work: the first is under way
// before wait_for() returns what the channels need.
template <PixelOrder kOrder, typename Acc, typename T, typename WaitFor>
__device__ __forceinline__ void gradient_of_run(const Share<kOrder>& share, const T* run, T* grad, int64_t begin,
                                                int64_t end, const WaitFor& wait_for) {
  constexpr int size = Pack<T>::size, kStep = Share<kOrder>::kThreads * size;
  const int64_t past = past_boundary(run + begin);
  const bool together = past == past_boundary(grad + begin);
  const auto load = [&](int64_t i, Pack<T>& pack) {
    const bool whole = together && i >= begin && i + size <= end;
    if (whole) pack = *reinterpret_cast<const Pack<T>*>(run + i);
    return whole;
  };
  int64_t i = begin - past + share.thread * size;
  Pack<T> next;
  bool next_is_whole = load(i, next);
  ChannelGradient<Acc> channels[Share<kOrder>::kPeriod];
  wait_for(channels);
  for (; i < end; i += kStep) {
    Pack<T> pack = next;
    const bool whole = next_is_whole;
    next_is_whole = load(i + kStep, next);
    if (whole) {
#pragma unroll
      for (int j = 0; j < size; ++j)
        pack.elements[j] = convert<T>(channels[j % share.kPeriod].at(load_element<Acc>(&pack.elements[j])));
      uint4 vector;
      memcpy(&vector, &pack, kVectorBytes);
      store_vector(grad + i, vector);
      continue;
    }
#pragma unroll
    for (int j = 0; j < size; ++j)
      if (i + j >= begin && i + j < end)
        grad[i + j] = convert<T>(channels[j % share.kPeriod].at(load_element<Acc>(run + i + j)));
  }
}

// By one warp, whose lane c < 4 writes what channel c needs, [4, 3]: maximum, scale, v.
template <typename Acc>
__device__ __forceinline__ void write_channels(const RotationHeadBackward& problem, int64_t sample, Acc* channels) {
  const int lane = threadIdx.x % kLanes;
  const Acc* statistics = static_cast<const Acc*>(problem.statistics) + sample * kHeadChannels * 3;
  const Acc* grad_shift = static_cast<const Acc*>(problem.grad_shift) + sample * 3;
  double v[kHeadChannels], grad_v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) v[channel] = statistics[channel * 3 + 2];
  grad_of_pooled(v, {grad_shift[0], grad_shift[1], grad_shift[2]}, problem.exact, grad_v);
  if (lane >= kHeadChannels) return;
  const double of_lane = lane < 2 ? (lane == 0 ? grad_v[0] : grad_v[1]) : lane == 2 ? grad_v[2] : grad_v[3];
  channels[lane * 3] = statistics[lane * 3], channels[lane * 3 + 2] = statistics[lane * 3 + 2];
  channels[lane * 3 + 1] = static_cast<Acc>(of_lane / statistics[lane * 3 + 1]);
}

// dynamic shared memory: 4 * 3 elements.
template <typename Acc, typename T, PixelOrder kOrder>
__global__ void __launch_bounds__(kHeadThreads) rotation_head_gradient(RotationHeadBackward problem, HeadParts parts) {
  const PixelRange range = range_of_block(parts, problem.shape);
  const Share<kOrder> share;
  constexpr int kPeriod = Share<kOrder>::kPeriod;
  const auto wait_for = [&](ChannelGradient<Acc>(&channels)[kPeriod]) {
    Acc* shared = dynamic_shared<Acc>();
    if (threadIdx.x < kLanes) write_channels(problem, range.sample, shared);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPeriod; ++i) {
      const Acc* of_channel = shared + (share.channel + i) * 3;
      channels[i] = {of_channel[0], of_channel[1], of_channel[2]};
    }
  };
  const MapStrides &strides = problem.map_strides, &grad_strides = problem.grad_strides;
  const T* map = static_cast<const T*>(problem.map) + range.sample * strides.sample + share.channel * strides.channel;
  T* grad =
      static_cast<T*>(problem.grad_map) + range.sample * grad_strides.sample + share.channel * grad_strides.channel;
  if constexpr (kOrder == PixelOrder::strided) {
    ChannelGradient<Acc> channels[kPeriod];
    wait_for(channels);
    for (int64_t pixel = range.first + share.thread; pixel < range.last; pixel += share.kThreads) {
      const Acc element = load_element<Acc>(map + offset_of(strides, problem.shape.columns, pixel));
      grad[offset_of(grad_strides, problem.shape.columns, pixel)] = convert<T>(channels[0].at(element));
    }
  } else {
    gradient_of_run<kOrder, Acc>(share, map, grad, range.first * kPeriod, range.last * kPeriod, wait_for);
  }
}

}  // namespace crossd_ops::cuda
