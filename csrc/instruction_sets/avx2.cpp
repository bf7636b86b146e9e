// The CPU kernels for x86-64 with AVX2, FMA and F16C. Chosen at run time, so the file compiles without -m flags.
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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define CROSSD_VECTOR_BYTES 32
namespace crossd_ops::cpu {
namespace avx2 {
namespace {
#include "instruction_sets/all_kernels.h"
}  // namespace
}  // namespace avx2
const Kernels* kernels_avx2() { return &avx2::kKernels; }
const RotationHeadKernels* rotation_head_kernels_avx2() { return &avx2::kRotationHeadKernels; }
const HeadKernels* head_kernels_avx2() { return &avx2::kHeadKernels; }
const ProductKernels* product_kernels_avx2() { return &avx2::kProductKernels; }
}  // namespace crossd_ops::cpu
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace crossd_ops::cpu {
const Kernels* kernels_avx2() { return nullptr; }
const RotationHeadKernels* rotation_head_kernels_avx2() { return nullptr; }
const HeadKernels* head_kernels_avx2() { return nullptr; }
const ProductKernels* product_kernels_avx2() { return nullptr; }
}  // namespace crossd_ops::cpu
#endif
