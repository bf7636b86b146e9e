// One sample and slice with the taps themselves: any size, odd or even. Included like simd.h.
//
// For one sample and slice x, with taps d = a + i b of each axis and the plane (y, z) of the other two:
//   u[y,z]   = sum_x' d0(x-x') w[x',y,z]       v = d1 * u along y       out = Re(d2 * v) along z
// and for the gradient g of that slice, the transposed stages:
//   q = d2^T g along z      h = d1^T q along y      gW[x',y,z] += Re(d0(x-x') h[y,z])
// The gradient of the shift needs the derivative taps d' only after all pairs are summed, through three correlations:
//   gs_d = Re sum_n d_d'(n) c_d[n],  c0[n] = sum h[y,z] w[x-n,y,z],  c1[n] = sum q[y,z] u[y-n,z],  c2[n] = sum g[y,z]
//   v[y,z-n]
// Complex numbers are multiplied without conjugation: Re(<g, L w>) = Re(<L^T g, w>) for real g and w. Imaginary parts
// exist for even K alone, and matter only where two axes are even: kComplex.
//
// Multiply-adds for each (sample, pair) and slice with K0 = K1 = K2 = K: 3 K^3 forward, 8 K^3 backward.

template <int k>
struct Cubic {  // sizes known at compile time: the loops unroll and the planes stay in registers
  static constexpr int k0 = k, k1 = k, k2 = k, plane = k * k, max_plane = k * k;
  explicit Cubic(const int32_t*) {}
};
struct AnySize {
  int k0, k1, k2, plane;
  static constexpr int max_plane = kMaxKernel * kMaxKernel;
  explicit AnySize(const int32_t* k) : k0(k[0]), k1(k[1]), k2(k[2]), plane(k[1] * k[2]) {}
};

// A plane of vectors, real and imaginary.
template <typename Acc, typename Size, bool kComplex>
struct Plane {
  Vector<Acc> re[Size::max_plane];
  Vector<Acc> im[kComplex ? Size::max_plane : 1];
};

// Real and imaginary taps of one axis, centred on n = 0.
template <typename Acc>
struct TapPair {
  const Acc *re, *im;
};
template <typename Acc>
inline TapPair<Acc> taps_of(const Taps<Acc>& taps, int64_t sample, int axis) {
  return {taps.at(sample, axis, TapKind::real), taps.at(sample, axis, TapKind::imaginary)};
}

#define CROSSD_UNROLL _Pragma("GCC unroll 7")
#define CROSSD_UNROLL_PLANE _Pragma("GCC unroll 9")

// plane[j] = sum_x' d(x - x') weight[x', j]
template <bool kComplex, typename Size, typename Acc>
inline void contract(const Size& n, TapPair<Acc> tap, int x, const Vector<Acc>* weight,
                     Plane<Acc, Size, kComplex>& out) {
  CROSSD_UNROLL_PLANE
  for (int j = 0; j < n.plane; ++j) {
    Vector<Acc> re{}, im{};
    CROSSD_UNROLL
    for (int i = 0; i < n.k0; ++i) {
      re += tap.re[x - i] * weight[i * n.plane + j];
      if constexpr (kComplex) im += tap.im[x - i] * weight[i * n.plane + j];
    }
    out.re[j] = re;
    if constexpr (kComplex) out.im[j] = im;
  }
}

// Multiplies by the circulant matrix of `tap` along y (kAlongY) or z; kTranspose: by its transpose.
template <bool kAlongY, bool kTranspose, bool kComplex, typename Size, typename Acc>
inline void circulant(const Size& n, TapPair<Acc> tap, const Plane<Acc, Size, kComplex>& in,
                      Plane<Acc, Size, kComplex>& out) {
  const int length = kAlongY ? n.k1 : n.k2, others = kAlongY ? n.k2 : n.k1;
  const int step = kAlongY ? n.k2 : 1, other_step = kAlongY ? 1 : n.k2;
  for (int line = 0; line < others; ++line) {
    CROSSD_UNROLL
    for (int i = 0; i < length; ++i) {
      Vector<Acc> re{}, im{};
      CROSSD_UNROLL
      for (int j = 0; j < length; ++j) {
        const int d = kTranspose ? j - i : i - j, at = line * other_step + j * step;
        re += tap.re[d] * in.re[at];
        if constexpr (kComplex) {
          re -= tap.im[d] * in.im[at];
          im += tap.im[d] * in.re[at] + tap.re[d] * in.im[at];
        }
      }
      out.re[line * other_step + i * step] = re;
      if constexpr (kComplex) out.im[line * other_step + i * step] = im;
    }
  }
}

template <bool kComplex, typename Size, typename Acc>
inline void shift_slice(const Size& n, const Taps<Acc>& taps, int64_t sample, int x, const Vector<Acc>* weight,
                        Vector<Acc>* out) {
  Plane<Acc, Size, kComplex> u, v;
  contract(n, taps_of(taps, sample, 0), x, weight, u);
  circulant<true, false>(n, taps_of(taps, sample, 1), u, v);
  circulant<false, false>(n, taps_of(taps, sample, 2), v, u);
  for (int j = 0; j < n.plane; ++j) out[j] = u.re[j];
}

// sums[n] += sum over the plane of a[y,z] b[y-n,z] (kAlongY) or a[y,z] b[y,z-n], n = 0 .. length-1, indices modulo
// length; imaginary parts follow all real ones at sums[imaginary + n].
template <bool kAlongY, bool kComplex, typename Size, typename Acc>
inline void correlate(const Size& n, const Plane<Acc, Size, kComplex>& a, const Plane<Acc, Size, kComplex>& b,
                      Vector<Acc>* sums, int imaginary) {
  const int length = kAlongY ? n.k1 : n.k2, others = kAlongY ? n.k2 : n.k1;
  const int step = kAlongY ? n.k2 : 1, other_step = kAlongY ? 1 : n.k2;
  CROSSD_UNROLL
  for (int d = 0; d < length; ++d) {
    Vector<Acc> re{}, im{};
    CROSSD_UNROLL
    for (int line = 0; line < others; ++line) {
      CROSSD_UNROLL
      for (int i = 0; i < length; ++i) {
        const int at = line * other_step + i * step,
                  from = line * other_step + (i >= d ? i - d : i - d + length) * step;
        re += a.re[at] * b.re[from];
        if constexpr (kComplex) {
          re -= a.im[at] * b.im[from];
          im += a.re[at] * b.im[from] + a.im[at] * b.re[from];
        }
      }
    }
    sums[d] += re;
    if constexpr (kComplex) sums[imaginary + d] += im;
  }
}

// The same along the sliced axis: sums[n] += sum of h[y,z] weight[x-n,y,z].
template <bool kComplex, typename Size, typename Acc>
inline void correlate_slices(const Size& n, int x, const Plane<Acc, Size, kComplex>& h, const Vector<Acc>* weight,
                             Vector<Acc>* sums, int imaginary) {
  CROSSD_UNROLL
  for (int d = 0; d < n.k0; ++d) {
    const Vector<Acc>* slice = weight + (x >= d ? x - d : x - d + n.k0) * n.plane;
    Vector<Acc> re{}, im{};
    CROSSD_UNROLL_PLANE
    for (int j = 0; j < n.plane; ++j) {
      re += h.re[j] * slice[j];
      if constexpr (kComplex) im += h.im[j] * slice[j];
    }
    sums[d] += re;
    if constexpr (kComplex) sums[imaginary + d] += im;
  }
}

// Adds one slice's part to grad_weight and to the lane-wide correlations, either of which may be null.
template <bool kComplex, typename Size, typename Acc>
inline void shift_slice_backward(const Size& n, const Taps<Acc>& taps, int64_t sample, int x, const Vector<Acc>* grad,
                                 const Vector<Acc>* weight, Vector<Acc>* grad_weight, Vector<Acc>* correlations) {
  Plane<Acc, Size, kComplex> g, q, h;
  for (int j = 0; j < n.plane; ++j) {
    g.re[j] = grad[j];
    if constexpr (kComplex) g.im[j] = Vector<Acc>{};
  }
  const TapPair<Acc> tap0 = taps_of(taps, sample, 0), tap1 = taps_of(taps, sample, 1), tap2 = taps_of(taps, sample, 2);
  circulant<false, true>(n, tap2, g, q);
  circulant<true, true>(n, tap1, q, h);
  if (grad_weight) {
    CROSSD_UNROLL
    for (int i = 0; i < n.k0; ++i) {
      CROSSD_UNROLL_PLANE
      for (int j = 0; j < n.plane; ++j) {
        grad_weight[i * n.plane + j] += tap0.re[x - i] * h.re[j];
        if constexpr (kComplex) grad_weight[i * n.plane + j] -= tap0.im[x - i] * h.im[j];
      }
    }
  }
  if (correlations) {
    const int imaginary = n.k0 + n.k1 + n.k2;
    correlate_slices(n, x, h, weight, correlations, imaginary);
    Plane<Acc, Size, kComplex> u, v;
    contract(n, tap0, x, weight, u);
    correlate<true>(n, q, u, correlations + n.k0, imaginary);
    circulant<true, false>(n, tap1, u, v);
    correlate<false>(n, g, v, correlations + n.k0 + n.k1, imaginary);
  }
}

// One sample's part of grad_shift from its correlations: gs_d = Re sum_n d_d'(n) c_d[n].
template <bool kComplex, typename Size, typename Acc>
inline void finish_grad_shift(const Size& n, const Taps<Acc>& taps, int64_t sample, const Vector<Acc>* correlations,
                              double* grad_shift) {
  const int length[3] = {n.k0, n.k1, n.k2}, imaginary = n.k0 + n.k1 + n.k2;
  for (int axis = 0; axis < 3; correlations += length[axis++]) {
    double sum = 0;
    for (int d = 0; d < length[axis]; ++d) {
      sum += taps.at(sample, axis, TapKind::real_derivative)[d] * sum_of_lanes<Acc>(correlations[d]);
      if constexpr (kComplex)
        sum -= taps.at(sample, axis, TapKind::imaginary_derivative)[d] * sum_of_lanes<Acc>(correlations[imaginary + d]);
    }
    grad_shift[axis] = sum;
  }
}

template <typename AccType, typename Size, bool kComplex>
struct Direct {
  using Acc = AccType;
  Size n;
  Taps<Acc> taps;

  template <typename Plan>
  explicit Direct(const Plan& plan) : n(plan.shape.kernel), taps(plan.taps) {}
  int plane() const { return n.plane; }
  int sums() const { return (n.k0 + n.k1 + n.k2) * (kComplex ? 2 : 1); }
  void prepare(Vector<Acc>*) const {}
  void finish(Vector<Acc>*) const {}
  void shift(int64_t sample, int x, const Vector<Acc>* weight, Vector<Acc>* out) const {
    shift_slice<kComplex>(n, taps, sample, x, weight, out);
  }
  void shift_backward(int64_t sample, int x, const Vector<Acc>* grad, const Vector<Acc>* weight,
                      Vector<Acc>* grad_weight, Vector<Acc>* sums) const {
    shift_slice_backward<kComplex>(n, taps, sample, x, grad, weight, grad_weight, sums);
  }
  void grad_shift(int64_t sample, const Vector<Acc>* sums, double* out) const {
    finish_grad_shift<kComplex>(n, taps, sample, sums, out);
  }
};
