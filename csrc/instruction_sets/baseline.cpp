// The CPU kernels for any machine: 16-byte vectors (SSE2, NEON). Chosen at run time, so the file compiles without -m
// flags.
#include <cstdint>

#include "convolution/cpu/small_product.h"
#include "head/cpu/plan.h"
#include "head/cpu/rotation_plan.h"
#include "shift/cpu/plan.h"

#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
namespace baseline {
namespace {
#include "instruction_sets/all_kernels.h"
}  // namespace
}  // namespace baseline
const Kernels* kernels_baseline() { return &baseline::kKernels; }
const RotationHeadKernels* rotation_head_kernels_baseline() { return &baseline::kRotationHeadKernels; }
const HeadKernels* head_kernels_baseline() { return &baseline::kHeadKernels; }
const ProductKernels* product_kernels_baseline() { return &baseline::kProductKernels; }
}  // namespace crossd_ops::cpu
