// The taps of one axis of size K and their derivatives in the shift s:
//   d(n; s) = (1 + 2 sum_{m < K/2} cos(2 pi m (n - s) / K) + [K even] cos(pi (n - s)) + i [K even] (-1)^n sin(pi s)) /
//   K
// The adjoint of d(i - j) is d(j - i): the same taps, read backwards.
#pragma once
#include "common/cuda/device.cuh"

namespace crossd_ops::cuda {

template <typename Acc>
struct Tap {
  Acc real, imaginary, real_derivative, imaginary_derivative;
};

// cos and sin of 2 pi m s / K. The error of the product m s is carried along and whole turns are taken away before the
// division, so that the angle is exact to its own rounding for any s.
template <typename Acc>
__device__ __forceinline__ void harmonic_of_shift(int m, int size, Acc shift, Acc* sine, Acc* cosine) {
  const Acc product = m * shift, rest = fma(static_cast<Acc>(m), shift, -product);
  const Acc remainder = fma(static_cast<Acc>(-size), rint(product / size), product) + rest;
  sin_cos_pi(2 * remainder / size, sine, cosine);
}

// nan for a shift that is not finite, for K = 1 too.
template <typename Acc>
__device__ __forceinline__ Tap<Acc> tap_at(int n, int size, Acc shift) {
  const Acc pi = static_cast<Acc>(3.14159265358979323846);
  const Acc reduced = fmod(shift, static_cast<Acc>(2 * size));  // exact; 2 K is the period of an even size
  const Acc nothing = reduced - reduced, scale = static_cast<Acc>(1) / size;
  Acc sine, cosine;
  Tap<Acc> tap = {1 + nothing, nothing, nothing, nothing};
  for (int m = 1; 2 * m < size; ++m) {
    Acc sine_index, cosine_index;
    harmonic_of_shift(m, size, reduced, &sine, &cosine);
    sin_cos_pi(static_cast<Acc>(2 * (m * n % size)) / size, &sine_index, &cosine_index);
    tap.real += 2 * (cosine_index * cosine + sine_index * sine);
    tap.real_derivative += 4 * pi * m * scale * (sine_index * cosine - cosine_index * sine);
  }
  if (size % 2 == 0) {
    sin_cos_pi(reduced, &sine, &cosine);
    if (n % 2) sine = -sine, cosine = -cosine;
    tap.real += cosine, tap.real_derivative -= pi * sine;
    tap.imaginary += sine, tap.imaginary_derivative += pi * cosine;
  }
  return {tap.real * scale, tap.imaginary * scale, tap.real_derivative * scale, tap.imaginary_derivative * scale};
}

// cos(2 pi turns) and sin(2 pi turns) of constants, |turns| < 1, by their series.
constexpr double constant_sine(double turns, bool cosine = false) {
  const double x = 6.28318530717958647692 * turns;
  double term = cosine ? 1 : x, sum = 0;
  for (int power = cosine ? 0 : 1; power < 40; power += 2) sum += term, term *= -x * x / ((power + 1) * (power + 2));
  return sum;
}
// cos and sin of 2 pi n / K, and for odd K the derivative D(n) of the taps in the shift, at shift 0. At any other the
// derivative of the taps is D convolved with them, A' = D A: one D for all samples. D(-n) = -D(n).
template <int kSize>
struct CircleTable {
  constexpr CircleTable() {
    for (int n = 0; n < kSize; ++n) {
      sine[n] = constant_sine(static_cast<double>(n) / kSize),
      cosine[n] = constant_sine(static_cast<double>(n) / kSize, true);
    }
    for (int n = 0; n < kSize; ++n)
      for (int m = 1; 2 * m < kSize; ++m)
        derivative[n] += 4 * 3.14159265358979323846 * m * sine[m * n % kSize] / (kSize * kSize);
  }
  double cosine[kSize] = {}, sine[kSize] = {}, derivative[kSize] = {};
};

// All taps of an odd size that is known to the compiler: one sine and cosine for each harmonic.
template <int kSize, typename Acc>
__device__ __forceinline__ void odd_taps(Acc shift, Acc (&taps)[kSize]) {
  static_assert(kSize % 2 == 1);
  constexpr CircleTable<kSize> circle;
  const Acc reduced = fmod(shift, static_cast<Acc>(kSize));
#pragma unroll
  for (int n = 0; n < kSize; ++n) taps[n] = static_cast<Acc>(1.0 / kSize);
#pragma unroll
  for (int m = 1; 2 * m < kSize; ++m) {
    Acc sine, cosine;
    harmonic_of_shift(m, kSize, reduced, &sine, &cosine);
#pragma unroll
    for (int n = 0; n < kSize; ++n) {
      const int step = m * n % kSize;
      taps[n] += static_cast<Acc>(2 * circle.cosine[step] / kSize) * cosine +
                 static_cast<Acc>(2 * circle.sine[step] / kSize) * sine;
    }
  }
}

}  // namespace crossd_ops::cuda
