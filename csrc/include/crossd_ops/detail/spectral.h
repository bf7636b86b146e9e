// The derivative of a translation M(s) along one axis, made of translations; derived in
// crossd_ops/operators/spectral.py.
//
//   dM(s)/ds W = M(s) D W + pi M(s + 1/2) P W
//
// D = IFFT (-2 pi i f) FFT over the frequencies between -1/2 and 1/2; P projects on the Nyquist frequency -1/2, which
// only an even size has. Both are circulant and real.
#pragma once
#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace crossd_ops::detail {

// A circulant matrix, by its first column, and the offset of the shift that follows it.
struct DerivativeTerm {
  std::vector<double> taps;
  double offset;
};

// The terms whose sum is the derivative along an axis of `size`: D, and for an even size pi P.
inline std::vector<DerivativeTerm> derivative_terms(int64_t size) {
  constexpr double pi = 3.14159265358979323846;
  std::vector<double> derivative(size, 0.0), nyquist(size);
  for (int64_t n = 0; n < size; ++n) {
    for (int64_t m = 1; m <= (size - 1) / 2; ++m)
      derivative[n] += 4 * pi * m / (size * size) * std::sin(2 * pi * m * n / size);
    nyquist[n] = (n % 2 ? -pi : pi) / size;
  }
  std::vector<DerivativeTerm> terms = {{derivative, 0.0}};
  if (size % 2 == 0) terms.push_back({nyquist, 0.5});
  return terms;
}

// sum_n taps[n] weight[x - n] along an axis; made of elementwise operations, which autocast does not round.
inline at::Tensor circulant(const at::Tensor& weight, const std::vector<double>& taps, int64_t axis) {
  at::Tensor total = at::zeros_like(weight);
  for (size_t n = 0; n < taps.size(); ++n)
    if (taps[n] != 0) total = total + taps[n] * weight.roll(static_cast<int64_t>(n), axis);
  return total;
}

// Taps of the transposed matrix: those at -n.
inline std::vector<double> transposed(const std::vector<double>& taps) {
  std::vector<double> result = {taps[0]};
  result.insert(result.end(), taps.rbegin(), taps.rend() - 1);
  return result;
}

// Each shift (B, 3), moved by `offset` elements along one axis.
inline at::Tensor moved(const at::Tensor& shift, int64_t axis, double offset) {
  if (offset == 0) return shift;
  at::Tensor step = at::zeros({3}, shift.options());
  step.select(0, axis).fill_(offset);
  return shift + step;
}

}  // namespace crossd_ops::detail
