// exp(x) of a vector, x <= 0. Included like simd.h, after it.
//
//   exp(x) = 2^n exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2,  exp(r) = 1 + r + r^2 p(r), p of degree 5
//
// float32: within 1.5 units in the last place. Below 2^-126 the result is 0: subnormal numbers are slow, and no such
// summand changes a sum that holds exp(0). NaN stays NaN. float64: that of the C library, lane by lane.

inline Floats exponential(Floats x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // the high part times n is exact
  const Floats shifted = x * 1.44269504088896341f + kRound, n = shifted - kRound;
  const Floats r = (x - n * kLn2High) - n * kLn2Low;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats of_r = p * (r * r) + r + 1.0f;
  const Floats power = (Floats)(((Words)shifted + 127u) << 23);
  return x < -87.33654f ? Floats{} : of_r * power;
}

inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}
