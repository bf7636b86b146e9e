// The CPU kernels for x86-64 with AVX-512 (F, BW, DQ, VL). Chosen at run time, so the file compiles without -m flags.
#include <cstdint>

#include "convolution/cpu/small_product.h"
#include "head/cpu/plan.h"
#include "head/cpu/rotation_plan.h"
#include "shift/cpu/plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
// To the end of the file, so that templates instantiated there belong to this target too. No header of the standard
// library may follow.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
// GCC 12 warns of its own _mm512_extractf32x4_ps, which passes an undefined vector on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define CROSSD_VECTOR_BYTES 64
namespace crossd_ops::cpu {
namespace avx512 {
namespace {
#include "instruction_sets/all_kernels.h"
}  // namespace
}  // namespace avx512
const Kernels* kernels_avx512() { return &avx512::kKernels; }
const RotationHeadKernels* rotation_head_kernels_avx512() { return &avx512::kRotationHeadKernels; }
const HeadKernels* head_kernels_avx512() { return &avx512::kHeadKernels; }
const ProductKernels* product_kernels_avx512() { return &avx512::kProductKernels; }
}  // namespace crossd_ops::cpu
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace crossd_ops::cpu {
const Kernels* kernels_avx512() { return nullptr; }
const RotationHeadKernels* rotation_head_kernels_avx512() { return nullptr; }
const HeadKernels* head_kernels_avx512() { return nullptr; }
const ProductKernels* product_kernels_avx512() { return nullptr; }
}  // namespace crossd_ops::cpu
#endif
