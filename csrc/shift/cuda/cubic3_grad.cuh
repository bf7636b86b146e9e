// The gradients that a warp of backward_cubic3 works on: their way to shared memory.
#pragma once
#include "shift/cuda/cubic3.cuh"

namespace crossd_ops::cuda {

// Samples whose gradients a warp has in flight, and as many that it works on. Each buffer is filled asynchronously.
template <typename Grad, int kSlices>
constexpr int kBackwardChunk = kSlices > 1 || sizeof(Grad) == 8 ? 1 : 4;

// Brings kChunk samples into a buffer, [kChunk, lanes, kRow]; samples beyond the last are zero.
template <int kRow, int kChunk, typename Grad>
class Cubic3GradFetch {
 public:
  __device__ Cubic3GradFetch(const BackwardProblem& problem, bool vectors, const Cubic3Warp& warp)
      : problem_(problem), warp_(warp), vectors_(vectors && warp.count == kLanes) {}

  __device__ __forceinline__ void start(int64_t sample, Grad* buffer) const {
    const int64_t rest = problem_.shape.samples - sample;
    const int left = rest < kChunk ? static_cast<int>(rest) : kChunk;
    const Grad* grad = static_cast<const Grad*>(problem_.grad) + sample * problem_.grad_strides.sample;
    if (!vectors_)
      bring_elements(grad, left, buffer);
    else if (left == kChunk)
      bring_chunk(reinterpret_cast<const char*>(grad + warp_.first * kRow), buffer);
    else
      bring_vectors(reinterpret_cast<const char*>(grad + warp_.first * kRow), left, buffer);
  }

 private:
  static constexpr int kElements = kLanes * kRow, kVectors = kElements / kVectorElements<Grad>;  // of a sample

  __device__ __forceinline__ int64_t stride() const {
    return problem_.grad_strides.sample * static_cast<int64_t>(sizeof(Grad));
  }

  __device__ __forceinline__ void bring_chunk(const char* grad, Grad* buffer) const {
    constexpr int kFull = kVectors / kLanes * kLanes, kRest = kVectors - kFull;
    static_assert(kRest > 0 && kChunk * kRest <= kLanes);
    const char* from = grad + warp_.lane * kVectorBytes;
#pragma unroll
    for (int row = 0; row < kChunk; ++row, from += stride()) {
#pragma unroll
      for (int first = 0; first < kFull; first += kLanes)
        copy_vector_async(buffer + row * kElements + (first + warp_.lane) * kVectorElements<Grad>,
                          from + first * kVectorBytes);
    }
    // The vectors that do not fill the lanes, of all samples together.
    const int sample = warp_.lane / kRest, vector = kFull + warp_.lane % kRest;
    if (sample < kChunk)
      copy_vector_async(buffer + sample * kElements + vector * kVectorElements<Grad>,
                        grad + sample * stride() + vector * kVectorBytes);
  }

  __device__ __forceinline__ void bring_vectors(const char* grad, int left, Grad* buffer) const {
#pragma unroll 1
    for (int i = warp_.lane; i < kChunk * kVectors; i += kLanes) {
      const int row = i / kVectors, vector = i - row * kVectors;
      Grad* to = buffer + i * kVectorElements<Grad>;
      if (row < left)
        copy_vector_async(to, grad + row * stride() + vector * kVectorBytes);
      else
        *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    }
  }

  __device__ __forceinline__ void bring_elements(const Grad* grad, int left, Grad* buffer) const {
    const GradStrides& strides = problem_.grad_strides;
    const bool active = warp_.lane < warp_.count;
    if (active) grad += pair_offset(strides, problem_.shape.in_channels, warp_.first + warp_.lane);
    buffer += warp_.lane * kRow;
#pragma unroll 1
    for (int i = 0; i < kChunk * kRow; ++i) {
      const int row = i / kRow, element = i - row * kRow;
      const int64_t offset = row * strides.sample + kernel_offset(strides, element / 9, element / 3 % 3, element % 3);
      buffer[row * kElements + element] = active && row < left ? grad[offset] : Grad{};
    }
  }

  const BackwardProblem& problem_;
  const Cubic3Warp& warp_;
  const bool vectors_;
};

}  // namespace crossd_ops::cuda
