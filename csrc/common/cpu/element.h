// Elements of the four dtypes, converted to and from the type that is computed with, one and in runs.
// Included like simd.h, after it.

inline float bits_to_float(uint32_t bits) {
  float v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}
inline uint32_t float_to_bits(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

inline float bfloat16_to_float(uint16_t h) { return bits_to_float(static_cast<uint32_t>(h) << 16); }
inline uint16_t float_to_bfloat16(float v) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t bits = float_to_bits(v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(v != v ? 0x7fc0u : rounded);
}

#if CROSSD_VECTOR_BYTES >= 32
inline float float16_to_float(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t float_to_float16(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }
#else
// Without a conversion instruction: scaling by a power of two lets the float unit treat denormals and rounding.
inline float float16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}
inline uint16_t float_to_float16(float v) {
  const uint32_t bits = float_to_bits(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u)  // denormal: adding 0.5 leaves the rounded result in the low bits
    return static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}
#endif

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <typename Acc, typename T>
inline Acc read(T v) {
  return static_cast<Acc>(v);
}
template <typename Acc>
inline Acc read(Bfloat16 v) {
  return bfloat16_to_float(v.bits);
}
template <typename Acc>
inline Acc read(Float16 v) {
  return float16_to_float(v.bits);
}
template <typename T, typename Acc>
struct Write {
  static T from(Acc v) { return static_cast<T>(v); }
};
template <typename Acc>
struct Write<Bfloat16, Acc> {
  static Bfloat16 from(Acc v) { return {float_to_bfloat16(static_cast<float>(v))}; }
};
template <typename Acc>
struct Write<Float16, Acc> {
  static Float16 from(Acc v) { return {float_to_float16(static_cast<float>(v))}; }
};

// A run of neighbouring elements. The compiler vectorises all but float16, which has its own instructions.
template <typename Acc, typename T>
inline void read_run(const T* source, int64_t n, Acc* target) {
  for (int64_t i = 0; i < n; ++i) target[i] = read<Acc>(source[i]);
}
template <typename T, typename Acc>
inline void write_run(const Acc* source, int64_t n, T* target) {
  for (int64_t i = 0; i < n; ++i) target[i] = Write<T, Acc>::from(source[i]);
}
#if CROSSD_VECTOR_BYTES >= 32
inline void read_run(const Float16* source, int64_t n, float* target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  for (; i < n; ++i) target[i] = float16_to_float(source[i].bits);
}
inline void write_run(const float* source, int64_t n, Float16* target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) target[i].bits = float_to_float16(source[i]);
}
#endif

// As load_quads and store_quads of float (simd.h): four neighbours of 16 bits are one number of 64.
typedef uint16_t HalfWords __attribute__((vector_size(CROSSD_VECTOR_BYTES / 2)));
typedef int64_t HalfQuads __attribute__((vector_size(CROSSD_VECTOR_BYTES / 2)));

inline Floats to_floats(HalfWords v, Bfloat16) { return (Floats)(__builtin_convertvector(v, Words) << 16); }
inline HalfWords from_floats(Floats v, Bfloat16) {  // as float_to_bfloat16
  const Words bits = (Words)v, rounded = (bits + ((bits >> 16) & 1u) + 0x7fffu) >> 16;
  return __builtin_convertvector(v == v ? rounded : Words{} + 0x7fc0u, HalfWords);
}
#if CROSSD_VECTOR_BYTES == 64
inline Floats to_floats(HalfWords v, Float16) { return (Floats)_mm512_cvtph_ps((__m256i)v); }
inline HalfWords from_floats(Floats v, Float16) {
  return (HalfWords)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif CROSSD_VECTOR_BYTES == 32
inline Floats to_floats(HalfWords v, Float16) { return (Floats)_mm256_cvtph_ps((__m128i)v); }
inline HalfWords from_floats(Floats v, Float16) {
  return (HalfWords)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#else
inline Floats to_floats(HalfWords v, Float16) {
  Floats result;
  for (int lane = 0; lane < kLanes<float>; ++lane) result[lane] = float16_to_float(v[lane]);
  return result;
}
inline HalfWords from_floats(Floats v, Float16) {
  HalfWords result;
  for (int lane = 0; lane < kLanes<float>; ++lane) result[lane] = float_to_float16(v[lane]);
  return result;
}
#endif
template <typename T>
inline Floats load_quads(const T* source, int64_t stride) {
  HalfQuads quads;
  for (int j = 0; j < kLanes<float> / 4; ++j) {
    int64_t quad;
    __builtin_memcpy(&quad, source + j * stride, sizeof quad);
    quads[j] = quad;
  }
  return to_floats((HalfWords)quads, T{});
}
template <typename T>
inline void store_quads(T* target, int64_t stride, Floats v) {
  const HalfQuads quads = (HalfQuads)from_floats(v, T{});
  for (int j = 0; j < kLanes<float> / 4; ++j) {
    const int64_t quad = quads[j];
    __builtin_memcpy(target + j * stride, &quad, sizeof quad);
  }
}

// The one dtype dispatch of the CPU kernels.
#define CROSSD_FOR_DTYPE(dtype, T, ...) \
  switch (dtype) {                      \
    case Dtype::float64: {              \
      using T = double;                 \
      __VA_ARGS__;                      \
    } break;                            \
    case Dtype::float32: {              \
      using T = float;                  \
      __VA_ARGS__;                      \
    } break;                            \
    case Dtype::bfloat16: {             \
      using T = Bfloat16;               \
      __VA_ARGS__;                      \
    } break;                            \
    case Dtype::float16: {              \
      using T = Float16;                \
      __VA_ARGS__;                      \
    } break;                            \
  }
