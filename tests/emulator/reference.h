// The operator and its gradients in float64, straight from the definition in shift/problem.h:
//
//   out[b, p, x, y, z] = Re sum_{x',y',z'} d0(x-x') d1(y-y') d2(z-z') weight[p, x', y', z'],   p = (o, c)
//   d(n) = (1/K) sum_{f in fftfreq(K)} exp(2 pi i f (n - s)),   d'(n) = dd/ds
//   grad_weight[p, x', y', z'] = sum_{b,x,y,z} grad[b, p, x, y, z] Re(d0 d1 d2)
//   grad_shift[b, a] = sum_{p,x,y,z,x',y',z'} grad weight Re(d0 d1 d2 with the factor of axis a differentiated)
//
// All arrays are dense and in canonical order. Slow on purpose: no separation, no symmetry.
#pragma once
#include <array>
#include <cmath>
#include <complex>
#include <vector>

#include "shift/problem.h"

namespace check {

using crossd_ops::ShiftShape;
using Complex = std::complex<double>;

struct Taps {
  std::vector<Complex> value, derivative;  // [n], n modulo K
};

inline Taps make_taps(int kernel, double shift) {
  const double pi = std::acos(-1.0);
  const double reduced =
      std::fmod(shift, double(kernel));  // the period of every term, so that a large shift loses nothing
  Taps taps{std::vector<Complex>(kernel), std::vector<Complex>(kernel)};
  for (int n = 0; n < kernel; ++n) {
    for (int m = -(kernel / 2); m < (kernel + 1) / 2; ++m) {
      const Complex angular(0.0, 2 * pi * m / kernel);
      const Complex term = std::exp(angular * (n - reduced)) / double(kernel);
      taps.value[n] += term;
      taps.derivative[n] -= angular * term;
    }
  }
  return taps;
}

struct Expected {
  std::vector<double> out;          // [B, P, slices, K1, K2]
  std::vector<double> grad_weight;  // [P, K0, K1, K2]
  std::vector<double> grad_shift;   // [B, 3]
  std::vector<double> magnitude;  // [B, 3]: sum over p of |grad| |weight| (Euclidean), the scale of grad_shift's error:
                                  // grad_shift itself may cancel to nothing, as it does for a constant gradient
};

inline double norm(const double* values, size_t count) {
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) sum += values[i] * values[i];
  return std::sqrt(sum);
}

inline int modulo(int n, int kernel) { return n < 0 ? n + kernel : n; }

// One sample and one p: adds to grad_weight, returns the contributions to grad_shift.
inline std::array<double, 3> add_pair(const ShiftShape& shape, const std::array<Taps, 3>& taps, const double* weight,
                                      const double* grad, double* out, double* grad_weight) {
  const auto [k0, k1, k2] = shape.kernel;
  std::array<double, 3> grad_shift{};
  for (int slice = 0; slice < shape.slices; ++slice) {
    const int x = shape.first_slice + slice;
    for (int row = 0; row < k1 * k2; ++row) {
      const int y = row / k2, z = row % k2, at = slice * k1 * k2 + row;
      for (int source = 0; source < k0 * k1 * k2; ++source) {
        const int n0 = modulo(x - source / (k1 * k2), k0);
        const int n1 = modulo(y - source / k2 % k1, k1);
        const int n2 = modulo(z - source % k2, k2);
        const Complex d0 = taps[0].value[n0], d1 = taps[1].value[n1], d2 = taps[2].value[n2];
        const double factor = std::real(d0 * d1 * d2);
        out[at] += factor * weight[source];
        grad_weight[source] += factor * grad[at];
        const double product = grad[at] * weight[source];
        grad_shift[0] += std::real(taps[0].derivative[n0] * d1 * d2) * product;
        grad_shift[1] += std::real(d0 * taps[1].derivative[n1] * d2) * product;
        grad_shift[2] += std::real(d0 * d1 * taps[2].derivative[n2]) * product;
      }
    }
  }
  return grad_shift;
}

inline Expected expected_results(const ShiftShape& shape, const std::vector<double>& weight,
                                 const std::vector<double>& shift, const std::vector<double>& grad) {
  const size_t pairs = size_t(shape.out_channels * shape.in_channels);
  const size_t plane = size_t(shape.kernel[1]) * shape.kernel[2];
  const size_t volume = plane * shape.kernel[0], slices = plane * shape.slices;
  Expected expected{std::vector<double>(shape.samples * pairs * slices), std::vector<double>(pairs * volume),
                    std::vector<double>(shape.samples * 3), std::vector<double>(shape.samples * 3)};
  for (size_t b = 0; b < size_t(shape.samples); ++b) {
    std::array<Taps, 3> taps;
    for (int a = 0; a < 3; ++a) taps[a] = make_taps(shape.kernel[a], shift[b * 3 + a]);
    for (size_t p = 0; p < pairs; ++p) {
      const size_t offset = (b * pairs + p) * slices;
      const auto contribution = add_pair(shape, taps, &weight[p * volume], &grad[offset], &expected.out[offset],
                                         &expected.grad_weight[p * volume]);
      const double scale = norm(&grad[offset], slices) * norm(&weight[p * volume], volume);
      for (int a = 0; a < 3; ++a) {
        expected.grad_shift[b * 3 + a] += contribution[a];
        expected.magnitude[b * 3 + a] += scale;
      }
    }
  }
  return expected;
}

}  // namespace check
