// The taps d(n; s) of every sample and axis, and their derivatives in s, in closed form from one sine and cosine for
// each harmonic: cos(2 pi m (n - s) / K) = cos(2 pi m n / K) cos(2 pi m s / K) + sin sin. Always computed in float64,
// so that a shift of 1e6 loses nothing but its own rounding.
#pragma once
#include <cmath>
#include <vector>

#include "shift/cpu/plan.h"

namespace crossd_ops::cpu {

class AxisTaps {
 public:
  explicit AxisTaps(int size) : size_(size), cosine_(size), sine_(size) {
    for (int i = 0; i < size; ++i) cosine_[i] = std::cos(2 * kPi * i / size), sine_[i] = std::sin(2 * kPi * i / size);
  }

  // Writes n = -(K-1) .. K-1 of each kind; `kinds` is 2 or 4, see Taps.
  template <typename Acc>
  void write(double shift, int kinds, int length, Acc* out) const {
    const int size = size_;
    double tap[4][kMaxKernel];
    for (int n = 0; n < size; ++n) tap[0][n] = 1.0 / size, tap[1][n] = tap[2][n] = tap[3][n] = 0;
    const double reduced = std::fmod(shift, 2.0 * size);  // exact; the one-sided Nyquist term of even K has period 2 K
    for (int m = 1; 2 * m < size; ++m) add_harmonic(m, reduced, tap);
    if (size % 2 == 0) add_nyquist(reduced, tap);
    if (!std::isfinite(shift)) std::fill_n(&tap[0][0], 4 * kMaxKernel, std::nan(""));
    for (int kind = 0; kind < kinds; ++kind)
      for (int n = 1 - size; n < size; ++n)
        out[kind * length + n + size - 1] = static_cast<Acc>(tap[kind][n < 0 ? n + size : n]);
  }

 private:
  static constexpr double kPi = 3.14159265358979323846;

  void add_harmonic(int m, double shift, double (*tap)[kMaxKernel]) const {
    const double step = 2 * kPi * m / size_, c = 2 * std::cos(step * shift) / size_,
                 s = 2 * std::sin(step * shift) / size_;
    for (int n = 0; n < size_; ++n) {
      const int i = m * n % size_;
      tap[0][n] += cosine_[i] * c + sine_[i] * s;
      tap[2][n] += step * (sine_[i] * c - cosine_[i] * s);
    }
  }
  void add_nyquist(double shift, double (*tap)[kMaxKernel]) const {
    const double c = std::cos(kPi * shift) / size_, s = std::sin(kPi * shift) / size_;
    for (int n = 0; n < size_; ++n) {
      const double sign = n % 2 ? -1 : 1;
      tap[0][n] += sign * c, tap[1][n] += sign * s;
      tap[2][n] -= sign * kPi * s, tap[3][n] += sign * kPi * c;
    }
  }

  int size_;
  std::vector<double> cosine_, sine_;  // of 2 pi i / K
};

// Owns the taps of all samples, or their harmonics for a 3 x 3 x 3 weight. `shift`: [B, 3].
template <typename Acc>
class TapTable {
 public:
  TapTable(const ShiftShape& shape, const void* shift, bool derivatives) {
    const int32_t* size = shape.kernel;
    if (size[0] == 3 && size[1] == 3 && size[2] == 3) {
      fill_harmonics(shape, static_cast<const Acc*>(shift));
      return;
    }
    const int longest = std::max(size[0], std::max(size[1], size[2]));
    taps_.kinds = derivatives ? 4 : 2;
    taps_.length = (2 * longest - 1 + 3) / 4 * 4;
    storage_.resize(static_cast<size_t>(shape.samples) * 3 * taps_.kinds * taps_.length);
    taps_.data = storage_.data();
    for (int axis = 0; axis < 3; ++axis) {
      taps_.center[axis] = size[axis] - 1;
      const AxisTaps generator(size[axis]);
      for (int64_t sample = 0; sample < shape.samples; ++sample)
        generator.write(static_cast<const Acc*>(shift)[sample * 3 + shape.axis[axis]], taps_.kinds, taps_.length,
                        storage_.data() + (sample * 3 + axis) * taps_.kinds * taps_.length);
    }
  }
  const Taps<Acc>& taps() const { return taps_; }
  const Acc* harmonics() const { return harmonics_; }

 private:
  void fill_harmonics(const ShiftShape& shape, const Acc* shift) {
    constexpr double kPhase = 2 * 3.14159265358979323846 / 3;
    storage_.resize(static_cast<size_t>(shape.samples) * 18);
    harmonics_ = storage_.data();
    for (int64_t i = 0; i < shape.samples * 3; ++i) {
      const double theta = kPhase * std::fmod(static_cast<double>(shift[i / 3 * 3 + shape.axis[i % 3]]), 3.0);
      const double cosine = std::cos(theta), sine = std::sin(theta), half_root3 = 0.86602540378443864676;
      const double phase_cosine[3] = {1, -0.5, -0.5}, phase_sine[3] = {0, half_root3, -half_root3};
      for (int n = 0; n < 3; ++n) {
        storage_[i * 6 + n] = static_cast<Acc>(phase_cosine[n] * cosine + phase_sine[n] * sine);
        storage_[i * 6 + 3 + n] = static_cast<Acc>(phase_sine[n] * cosine - phase_cosine[n] * sine);
      }
    }
  }

  Taps<Acc> taps_{};
  const Acc* harmonics_ = nullptr;
  std::vector<Acc> storage_;
};

}  // namespace crossd_ops::cpu
