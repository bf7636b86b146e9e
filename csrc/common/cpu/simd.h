// Vectors of CROSSD_VECTOR_BYTES bytes, and the transposition between "one vector per row" and "one run per pair".
// Included once in each instruction set's file, after its target pragma, inside that file's own namespace.
// No include here on purpose: everything from the standard library must be seen before the target changes.

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(CROSSD_VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = CROSSD_VECTOR_BYTES / sizeof(T);

using Floats = Vector<float>;
typedef int32_t Ints __attribute__((vector_size(CROSSD_VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(CROSSD_VECTOR_BYTES)));

template <int... i>
struct Indices {};
template <int n, int... i>
struct MakeIndices : MakeIndices<n - 1, n - 1, i...> {};
template <int... i>
struct MakeIndices<0, i...> {
  using type = Indices<i...>;
};
using LaneIndices = MakeIndices<kLanes<float>>::type;

#if defined(__clang__)
#define CROSSD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CROSSD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// In each block of four lanes (a0 a1 a2 a3), (b0 b1 b2 b3): low -> (a0 b0 a1 b1), high -> (a2 b2 a3 b3).
template <int first, int... i>
inline Floats interleave(Floats a, Floats b, Indices<i...>) {
  return CROSSD_SHUFFLE(a, b, (i / 4 * 4 + first + i % 4 / 2 + i % 2 * kLanes<float>)...);
}
// In each block of four lanes: two lanes of a from `first`, then the same two of b.
template <int first, int... i>
inline Floats join_halves(Floats a, Floats b, Indices<i...>) {
  return CROSSD_SHUFFLE(a, b, (i / 4 * 4 + first + i % 2 + i % 4 / 2 * kLanes<float>)...);
}

// Transposes the 4 x 4 matrix that four vectors hold in each block of four lanes. Its own inverse.
inline void transpose_4x4(Floats& a, Floats& b, Floats& c, Floats& d) {
  const LaneIndices lanes;
  const Floats ab_low = interleave<0>(a, b, lanes), ab_high = interleave<2>(a, b, lanes);
  const Floats cd_low = interleave<0>(c, d, lanes), cd_high = interleave<2>(c, d, lanes);
  a = join_halves<0>(ab_low, cd_low, lanes);
  b = join_halves<2>(ab_low, cd_low, lanes);
  c = join_halves<0>(ab_high, cd_high, lanes);
  d = join_halves<2>(ab_high, cd_high, lanes);
}

// Block j of four lanes <- four neighbouring floats at source + j * stride.
inline Floats load_quads(const float* source, int64_t stride) {
#if CROSSD_VECTOR_BYTES == 64
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(source));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(source + stride), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(source + 2 * stride), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(source + 3 * stride), 3);
#elif CROSSD_VECTOR_BYTES == 32
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(source)), _mm_loadu_ps(source + stride), 1);
#else
  (void)stride;
  Floats v;
  __builtin_memcpy(&v, source, sizeof v);
  return v;
#endif
}
inline void store_quads(float* target, int64_t stride, Floats v) {
#if CROSSD_VECTOR_BYTES == 64
  _mm_storeu_ps(target, _mm512_castps512_ps128(v));
  _mm_storeu_ps(target + stride, _mm512_extractf32x4_ps(v, 1));
  _mm_storeu_ps(target + 2 * stride, _mm512_extractf32x4_ps(v, 2));
  _mm_storeu_ps(target + 3 * stride, _mm512_extractf32x4_ps(v, 3));
#elif CROSSD_VECTOR_BYTES == 32
  _mm_storeu_ps(target, _mm256_castps256_ps128(v));
  _mm_storeu_ps(target + stride, _mm256_extractf128_ps(v, 1));
#else
  (void)stride;
  __builtin_memcpy(target, &v, sizeof v);
#endif
}

// rows[row_at[i]][lane] <- source[lane * count + i]: `lanes` runs of `count` neighbours become `count` vectors.
template <typename Acc>
inline void transpose_in(const Acc* source, int count, const int32_t* row_at, Vector<Acc>* rows) {
  int i = 0;
  if constexpr (sizeof(Acc) == 4) {
    const int64_t pair = count, block = 4 * pair;
    // The last quad may overlap the one before: cheaper than the rows that are left one by one.
    for (; i < count && count >= 4; i += 4) {
      if (i + 4 > count) i = count - 4;
      Floats a = load_quads(source + i, block), b = load_quads(source + i + pair, block);
      Floats c = load_quads(source + i + 2 * pair, block), d = load_quads(source + i + 3 * pair, block);
      transpose_4x4(a, b, c, d);
      rows[row_at[i]] = a, rows[row_at[i + 1]] = b, rows[row_at[i + 2]] = c, rows[row_at[i + 3]] = d;
    }
  }
  for (; i < count; ++i) {
    Vector<Acc> v;
    for (int lane = 0; lane < kLanes<Acc>; ++lane) v[lane] = source[static_cast<int64_t>(lane) * count + i];
    rows[row_at[i]] = v;
  }
}

// The inverse: target[lane * count + i] <- rows[row_at[i]][lane].
template <typename Acc>
inline void transpose_out(const Vector<Acc>* rows, int count, const int32_t* row_at, Acc* target) {
  int i = 0;
  if constexpr (sizeof(Acc) == 4) {
    const int64_t pair = count, block = 4 * pair;
    for (; i + 4 <= count; i += 4) {
      Floats a = rows[row_at[i]], b = rows[row_at[i + 1]], c = rows[row_at[i + 2]], d = rows[row_at[i + 3]];
      transpose_4x4(a, b, c, d);
      store_quads(target + i, block, a), store_quads(target + i + pair, block, b);
      store_quads(target + i + 2 * pair, block, c), store_quads(target + i + 3 * pair, block, d);
    }
  }
  for (; i < count; ++i) {
    const Acc* row = reinterpret_cast<const Acc*>(rows + row_at[i]);
    for (int lane = 0; lane < kLanes<Acc>; ++lane) target[static_cast<int64_t>(lane) * count + i] = row[lane];
  }
}

template <typename Acc>
inline double sum_of_lanes(Vector<Acc> v) {
  double sum = 0;
  for (int lane = 0; lane < kLanes<Acc>; ++lane) sum += v[lane];
  return sum;
}
