// K = 3 in the basis where a shift is a rotation. Of a plane v[y, z] and w = exp(2 pi i / 3):
//   V(f, g) = sum_{y,z} v[y, z] w^-(f y + g z);   a shift by (s1, s2) multiplies V(f, g) by exp(-2 pi i (f s1 + g s2) /
//   3)
// v is real, so V(0,0) and V(1,0), V(0,1), V(1,1), V(1,-1) say all: 9 numbers. Transforming the weight once for all
// samples leaves 16 operations for both circulants of a slice instead of 54, and makes the derivatives in the shift
// products by f and g. On the axis of the slices, with phi = 2 pi (s0 - x) / 3:   slice = A + B cos(phi) + C sin(phi):
// 18 operations instead of 27.
#pragma once
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/tile.cuh"

namespace crossd_ops::cuda {

constexpr double kHalfRoot3 = 0.86602540378443864676;  // sin(2 pi / 3)
// Samples whose phases are computed at a time.
constexpr int kGroupSamples = 32;
constexpr int kPhaseCount = 5,
              kPhaseStride = 12;  // three vectors: phi and two elements to spare; (1,0), (0,1); (1,1), (1,-1)

// Spectrum: V(0,0), then real and imaginary part of V(1,0), V(0,1), V(1,1), V(1,-1).
template <typename Acc>
__device__ __forceinline__ void analyse(const Acc (&plane)[9], Acc (&spectrum)[9]) {
  const Acc root = static_cast<Acc>(kHalfRoot3), half = static_cast<Acc>(0.5);
  Acc sum[3], real[3], difference[3];  // over z, g = 0 and 1: V = real - i root difference
#pragma unroll
  for (int y = 0; y < 3; ++y) {
    const Acc rest = plane[3 * y + 1] + plane[3 * y + 2];
    sum[y] = plane[3 * y] + rest, real[y] = plane[3 * y] - half * rest,
    difference[y] = plane[3 * y + 1] - plane[3 * y + 2];
  }
  const Acc sums = sum[1] + sum[2], reals = real[1] + real[2], differences = difference[1] + difference[2];
  spectrum[0] = sum[0] + sums;
  spectrum[1] = sum[0] - half * sums, spectrum[2] = root * (sum[2] - sum[1]);
  spectrum[3] = real[0] + reals, spectrum[4] = -root * (difference[0] + differences);
  const Acc even_real = real[0] - half * reals, even_difference = difference[0] - half * differences;
  const Acc odd_real = real[1] - real[2], odd_difference = static_cast<Acc>(0.75) * (difference[1] - difference[2]);
  spectrum[5] = even_real - odd_difference, spectrum[6] = -root * (odd_real + even_difference);
  spectrum[7] = even_real + odd_difference, spectrum[8] = root * (even_difference - odd_real);
}

// v[y, z] = V(0,0) + sum of Re(V(f, g) w^(f y + g z)): its inverse where V(0,0) was divided by 9 and the others by 9/2,
// and its transpose as it stands.
template <typename Acc>
__device__ __forceinline__ void synthesise(const Acc (&spectrum)[9], Acc (&plane)[9]) {
  const Acc root = static_cast<Acc>(kHalfRoot3), half = static_cast<Acc>(0.5);
  const Acc even_real = spectrum[5] + spectrum[7], even_imaginary = spectrum[6] - spectrum[8];
  const Acc odd_real = spectrum[5] - spectrum[7], odd_imaginary = spectrum[6] + spectrum[8];
  const Acc sum = spectrum[0] - half * spectrum[1];
  const Acc real_rest = spectrum[3] - half * even_real, imaginary_rest = spectrum[4] - half * even_imaginary;
  const Acc sums[3] = {spectrum[0] + spectrum[1], sum - root * spectrum[2], sum + root * spectrum[2]};
  const Acc real[3] = {spectrum[3] + even_real, real_rest - root * odd_imaginary, real_rest + root * odd_imaginary};
  const Acc imaginary[3] = {spectrum[4] + even_imaginary, imaginary_rest + root * odd_real,
                            imaginary_rest - root * odd_real};
#pragma unroll
  for (int y = 0; y < 3; ++y) {
    const Acc rest = sums[y] - half * real[y];
    plane[3 * y] = sums[y] + real[y];
    plane[3 * y + 1] = rest - root * imaginary[y], plane[3 * y + 2] = rest + root * imaginary[y];
  }
}

// A, B and C, spectra of 9 numbers each, of a weight, scaled so that synthesise() gives the slice.
template <typename Acc>
__device__ __forceinline__ void analyse_weight(Acc (&weight)[27]) {
  const Acc third = static_cast<Acc>(1.0 / 3), half = static_cast<Acc>(0.5),
            scale = static_cast<Acc>(2.0 / 3 * kHalfRoot3);
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    const Acc first = weight[i], rest = weight[9 + i] + weight[18 + i];
    weight[18 + i] = scale * (weight[18 + i] - weight[9 + i]);
    weight[i] = third * (first + rest), weight[9 + i] = 2 * third * (first - half * rest);
  }
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    Acc plane[9], spectrum[9];
#pragma unroll
    for (int i = 0; i < 9; ++i) plane[i] = weight[9 * part + i];
    analyse(plane, spectrum);
#pragma unroll
    for (int i = 0; i < 9; ++i) weight[9 * part + i] = spectrum[i] * static_cast<Acc>(i == 0 ? 1.0 / 9 : 2.0 / 9);
  }
}

// The transpose of analyse_weight, for the gradient.
template <typename Acc>
__device__ __forceinline__ void synthesise_grad_weight(Acc (&grad)[27]) {
  const Acc third = static_cast<Acc>(1.0 / 3), scale = static_cast<Acc>(2.0 / 3 * kHalfRoot3);
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    Acc plane[9], spectrum[9];
#pragma unroll
    for (int i = 0; i < 9; ++i) spectrum[i] = grad[9 * part + i] * static_cast<Acc>(i == 0 ? 1.0 / 9 : 2.0 / 9);
    synthesise(spectrum, plane);
#pragma unroll
    for (int i = 0; i < 9; ++i) grad[9 * part + i] = plane[i];
  }
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    const Acc a = third * grad[i], b = third * grad[9 + i], c = scale * grad[18 + i];
    grad[i] = a + 2 * b, grad[9 + i] = a - b - c, grad[18 + i] = a - b + c;
  }
}

// cos and sin of the five phases of a sample: phi of its first slice, 2 pi (f s1 + g s2) / 3 in the order of the
// spectrum.
template <typename Acc>
struct Cubic3Phases {
  __device__ explicit Cubic3Phases(const Acc* shared) { read_shared(shared, values); }
  // phi falls by 2 pi / 3 from slice to slice.
  __device__ Acc slice_cosine(int slice) const { return turned(values[0], values[1], slice); }
  __device__ Acc slice_sine(int slice) const { return turned(values[1], -values[0], slice); }
  __device__ Acc cosine(int pair) const { return values[4 + 2 * pair]; }
  __device__ Acc sine(int pair) const { return values[5 + 2 * pair]; }

 private:
  __device__ static Acc turned(Acc along, Acc across, int slice) {
    if (slice == 0) return along;
    const Acc root = static_cast<Acc>(slice == 1 ? kHalfRoot3 : -kHalfRoot3);
    return root * across - static_cast<Acc>(0.5) * along;
  }
  Acc values[kPhaseStride];
};

// Phases of samples first .. first + count - 1, and zeros up to kGroupSamples, computed by `threads` threads.
template <typename Acc>
__device__ void compute_phases(const ShiftShape& shape, const void* shift, int64_t first, int count, int threads,
                               Acc* phases) {
  for (int task = threadIdx.x; task < kPhaseCount * kGroupSamples; task += threads) {
    const int sample = task / kPhaseCount, phase = task - sample * kPhaseCount;
    const auto reduced = [&](int axis) {  // exact; a whole turn is a shift of 3
      const Acc value =
          fmod(static_cast<const Acc*>(shift)[(first + sample) * 3 + select(shape.axis, axis)], static_cast<Acc>(3));
      return fma(static_cast<Acc>(-3), rint(value * static_cast<Acc>(1.0 / 3)), value);
    };
    Acc cosine_sine[2] = {0, 0};
    if (sample < count) {  // the lanes of a warp have different phases: one way for all
      const Acc other = reduced(2), thirds = phase == 2 ? other : reduced(phase == 0 ? 0 : 1);
      const Acc added = phase == 0   ? -static_cast<Acc>(shape.first_slice)
                        : phase == 3 ? other
                        : phase == 4 ? -other
                                     : 0;
      sin_cos_pi((thirds + added) * static_cast<Acc>(2.0 / 3), &cosine_sine[1], &cosine_sine[0]);
    }
    write_shared(phases + sample * kPhaseStride + (phase == 0 ? 0 : 2 + 2 * phase), cosine_sine);
  }
}

template <typename Acc>
__device__ __forceinline__ void contract_slices(const Cubic3Phases<Acc>& phases, int slice, const Acc (&weight)[27],
                                                Acc (&spectrum)[9]) {
  const Acc cosine = phases.slice_cosine(slice), sine = phases.slice_sine(slice);
#pragma unroll
  for (int i = 0; i < 9; ++i) spectrum[i] = weight[i] + cosine * weight[9 + i] + sine * weight[18 + i];
}

// Multiplies by exp(-i phase), or by exp(i phase) for the adjoint.
template <bool kAdjoint, typename Acc>
__device__ __forceinline__ void rotate(const Cubic3Phases<Acc>& phases, Acc (&spectrum)[9]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const Acc real = spectrum[1 + 2 * pair], imaginary = spectrum[2 + 2 * pair];
    const Acc cosine = phases.cosine(pair), sine = kAdjoint ? -phases.sine(pair) : phases.sine(pair);
    spectrum[1 + 2 * pair] = cosine * real + sine * imaginary;
    spectrum[2 + 2 * pair] = cosine * imaginary - sine * real;
  }
}

}  // namespace crossd_ops::cuda
