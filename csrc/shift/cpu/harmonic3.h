// One sample and slice of a 3 x 3 x 3 weight, in the real Fourier basis of each axis. Included like simd.h.
//
// Along an axis of three, w_n = m + c cos(phi_n) + s sin(phi_n) with phi_n = 2 pi n / 3, and shifting by t turns the
// phases:
//   w_n(t) = m + A_n c + B_n s,   A_n = cos(phi_n - theta), B_n = sin(phi_n - theta), theta = 2 pi t / 3
// so a line costs six multiply-adds instead of nine once the weight is in this basis (`prepare`, once for all samples).
// The transposed step is m' = sum g_n, c' = sum A_n g_n, s' = sum B_n g_n. The derivative in theta only exchanges c and
// s, dA = B and dB = -A, so with h the gradient in the basis of axes 1 and 2 and u the slice in the same basis
//   gs1 = (2 pi / 3) sum h_s u_c - h_c u_s  over axis 1, gs2 likewise over axis 2, gs0 = (2 pi / 3) (B_x <h, w_c> - A_x
//   <h, w_s>).
// For each (sample, pair) and slice: 54 multiply-adds forward (81 with taps), 120 backward (216 with taps).

template <typename AccType>
struct Harmonic3 {
  using Acc = AccType;
  using V = Vector<Acc>;
  const Acc* harmonics;  // [B, 3 axes, A and B, 3]

  template <typename Plan>
  explicit Harmonic3(const Plan& plan) : harmonics(plan.harmonics) {}
  int plane() const { return 9; }
  int sums() const { return 3; }

  // (w_0, w_1, w_2) -> (m, c, s) along each axis in turn.
  void prepare(V* weight) const {
    for_each_line(weight, [](V& a, V& b, V& c) {
      const V m = (a + b + c) * kThird, s = (b - c) * kInverseRoot3;
      b = a - m, a = m, c = s;  // c cos(phi_0) = w_0 - m
    });
  }
  // The transpose: gw_n = (gm + 2 cos(phi_n) gc + 2 sin(phi_n) gs) / 3.
  void finish(V* grad_weight) const {
    for_each_line(grad_weight, [](V& a, V& b, V& c) {
      const V rest = (a - b) * kThird, s = c * kInverseRoot3;
      a = rest + b, b = rest + s, c = rest - s;
    });
  }

  void shift(int64_t sample, int x, const V* weight, V* out) const {
    const Acc *h0 = axis(sample, 0), *h1 = axis(sample, 1), *h2 = axis(sample, 2);
    V u[9], v[9];
    contract(h0, x, weight, u);
    CROSSD_UNROLL
    for (int z = 0; z < 3; ++z) evaluate<3>(h1, u + z, v + z);
    CROSSD_UNROLL
    for (int y = 0; y < 3; ++y) evaluate<1>(h2, v + 3 * y, out + 3 * y);
  }

  void shift_backward(int64_t sample, int x, const V* grad, const V* weight, V* grad_weight, V* sums) const {
    const Acc *h0 = axis(sample, 0), *h1 = axis(sample, 1), *h2 = axis(sample, 2);
    V q[9], h[9];
    CROSSD_UNROLL
    for (int y = 0; y < 3; ++y) evaluate_transposed<1>(h2, grad + 3 * y, q + 3 * y);
    CROSSD_UNROLL
    for (int z = 0; z < 3; ++z) evaluate_transposed<3>(h1, q + z, h + z);
    if (grad_weight) {
      CROSSD_UNROLL_PLANE
      for (int j = 0; j < 9; ++j) {
        grad_weight[j] += h[j];
        grad_weight[9 + j] += h0[x] * h[j];
        grad_weight[18 + j] += h0[3 + x] * h[j];
      }
    }
    if (sums) {
      V u[9], cosine{}, sine{};
      contract(h0, x, weight, u);
      CROSSD_UNROLL_PLANE
      for (int j = 0; j < 9; ++j) cosine += h[j] * weight[9 + j], sine += h[j] * weight[18 + j];
      sums[0] += h0[3 + x] * cosine - h0[x] * sine;
      V along_y{}, along_z{};
      CROSSD_UNROLL
      for (int i = 0; i < 3; ++i) {
        along_y += h[6 + i] * u[3 + i] - h[3 + i] * u[6 + i];
        along_z += h[3 * i + 2] * u[3 * i + 1] - h[3 * i + 1] * u[3 * i + 2];
      }
      sums[1] += along_y, sums[2] += along_z;
    }
  }

  void grad_shift(int64_t, const V* sums, double* out) const {
    constexpr double kRadians = 2 * 3.14159265358979323846 / 3;
    for (int i = 0; i < 3; ++i) out[i] = kRadians * sum_of_lanes<Acc>(sums[i]);
  }

 private:
  static constexpr Acc kThird = static_cast<Acc>(1.0 / 3), kInverseRoot3 = static_cast<Acc>(0.57735026918962576451);

  const Acc* axis(int64_t sample, int i) const { return harmonics + (sample * 3 + i) * 6; }

  template <typename Body>
  static void for_each_line(V* w, Body body) {
    for (int j = 0; j < 9; ++j) body(w[j], w[9 + j], w[18 + j]);
    for (int i = 0; i < 9; ++i) body(w[i / 3 * 9 + i % 3], w[i / 3 * 9 + 3 + i % 3], w[i / 3 * 9 + 6 + i % 3]);
    for (int i = 0; i < 9; ++i) body(w[3 * i], w[3 * i + 1], w[3 * i + 2]);
  }
  static void contract(const Acc* h, int x, const V* weight, V* u) {
    CROSSD_UNROLL_PLANE
    for (int j = 0; j < 9; ++j) u[j] = weight[j] + h[x] * weight[9 + j] + h[3 + x] * weight[18 + j];
  }
  template <int step>
  static void evaluate(const Acc* h, const V* in, V* out) {
    CROSSD_UNROLL
    for (int n = 0; n < 3; ++n) out[n * step] = in[0] + h[n] * in[step] + h[3 + n] * in[2 * step];
  }
  template <int step>
  static void evaluate_transposed(const Acc* h, const V* in, V* out) {
    out[0] = in[0] + in[step] + in[2 * step];
    out[step] = h[0] * in[0] + h[1] * in[step] + h[2] * in[2 * step];
    out[2 * step] = h[3] * in[0] + h[4] * in[step] + h[5] * in[2 * step];
  }
};
