// The gradients that a warp of backward_cubic3 works on: their way to shared memory and to registers. They lie there as
// in global memory: a sample's are [lanes, kRow], or [kRow, lanes] where gradients are tap-major, so that both kinds
// move in vectors of 16 bytes. Tap-major, the 32 pairs of a tap are 4 vectors of a half type: whole sectors.
#pragma once
#include "shift/cuda/cubic3.cuh"

namespace crossd_ops::cuda {

// Samples whose gradients a warp has in flight, and as many that it works on. Each buffer is filled asynchronously.
template <typename Grad, int kSlices>
constexpr int kBackwardChunk = kSlices > 1 || sizeof(Grad) == 8 ? 1 : 4;

// Brings kChunk samples into a buffer, and those of a lane's pair from there; samples beyond the last are zero.
template <int kRow, int kChunk, bool kTapMajor, typename Grad>
class Cubic3GradFetch {
 public:
  __device__ Cubic3GradFetch(const BackwardProblem& problem, bool vectors, const Cubic3Warp& warp)
      : problem_(problem), warp_(warp), vectors_(vectors && warp.count == kLanes) {}

  __device__ __forceinline__ void start(int64_t sample, Grad* buffer) const {
    const int64_t rest = problem_.shape.samples - sample;
    const int left = rest < kChunk ? static_cast<int>(rest) : kChunk;
    const Grad* grad = static_cast<const Grad*>(problem_.grad) + sample * problem_.grad_strides.sample;
    const char* tile = reinterpret_cast<const char*>(grad + warp_.first * (kTapMajor ? 1 : kRow));
    if (!vectors_)
      bring_elements(grad, left, buffer);
    else if (left == kChunk)
      bring_chunk(tile, buffer);
    else
      bring_vectors(tile, left, buffer);
  }

  template <typename Acc>
  __device__ __forceinline__ void read(const Grad* buffer, int sample, int slice, Acc (&grad)[kCubic3Plane]) const {
    buffer += sample * kElements;
    if constexpr (kTapMajor) {
#pragma unroll
      for (int i = 0; i < kCubic3Plane; ++i)
        grad[i] = load_element<Acc>(buffer + (slice * kCubic3Plane + i) * kLanes + warp_.lane);
    } else {
      read_elements(buffer, warp_.lane * kRow + slice * kCubic3Plane, grad);
    }
  }

 private:
  static constexpr int kElements = kLanes * kRow, kVectors = kElements / kVectorElements<Grad>;  // of a sample

  __device__ __forceinline__ int64_t stride() const {
    return problem_.grad_strides.sample * static_cast<int64_t>(sizeof(Grad));
  }

  // Bytes from a tile's first vector of a sample to another one.
  __device__ __forceinline__ int64_t offset(int vector) const {
    constexpr int kOfTap = kVectors / kRow;
    if constexpr (!kTapMajor) return vector * kVectorBytes;
    return vector / kOfTap * problem_.grad_strides.kernel[2] * static_cast<int64_t>(sizeof(Grad)) +
           vector % kOfTap * kVectorBytes;
  }

  __device__ __forceinline__ void bring_chunk(const char* grad, Grad* buffer) const {
    constexpr int kFull = kVectors / kLanes * kLanes, kRest = kVectors - kFull;
    static_assert(kRest > 0 && kChunk * kRest <= kLanes);
    const char* from = grad + offset(warp_.lane);
#pragma unroll
    for (int row = 0; row < kChunk; ++row, from += stride()) {
#pragma unroll
      for (int first = 0; first < kFull; first += kLanes)
        copy_vector_async(buffer + row * kElements + (first + warp_.lane) * kVectorElements<Grad>,
                          from + offset(first));
    }
    // The vectors that do not fill the lanes, of all samples together.
    const int sample = warp_.lane / kRest, vector = kFull + warp_.lane % kRest;
    if (sample < kChunk)
      copy_vector_async(buffer + sample * kElements + vector * kVectorElements<Grad>,
                        grad + sample * stride() + offset(vector));
  }

  __device__ __forceinline__ void bring_vectors(const char* grad, int left, Grad* buffer) const {
#pragma unroll 1
    for (int i = warp_.lane; i < kChunk * kVectors; i += kLanes) {
      const int row = i / kVectors, vector = i - row * kVectors;
      Grad* to = buffer + i * kVectorElements<Grad>;
      if (row < left)
        copy_vector_async(to, grad + row * stride() + offset(vector));
      else
        *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    }
  }

  __device__ __forceinline__ void bring_elements(const Grad* grad, int left, Grad* buffer) const {
    const GradStrides& strides = problem_.grad_strides;
    const bool active = warp_.lane < warp_.count;
    if (active) grad += pair_offset(strides, problem_.shape.in_channels, warp_.first + warp_.lane);
#pragma unroll 1
    for (int i = 0; i < kChunk * kRow; ++i) {
      const int row = i / kRow, element = i - row * kRow;
      const int64_t offset = row * strides.sample + kernel_offset(strides, element / 9, element / 3 % 3, element % 3);
      buffer[row * kElements + (kTapMajor ? element * kLanes + warp_.lane : warp_.lane * kRow + element)] =
          active && row < left ? grad[offset] : Grad{};
    }
  }

  const BackwardProblem& problem_;
  const Cubic3Warp& warp_;
  const bool vectors_;
};

}  // namespace crossd_ops::cuda
