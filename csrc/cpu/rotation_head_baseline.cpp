// The rotation head for any machine: 16-byte vectors (SSE2, NEON). Chosen at run time, so the file compiles without -m
// flags.
#include <cstdint>

#include "cpu/plan.h"
#include "cpu/rotation_head_plan.h"

#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
namespace baseline {
namespace {
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "cpu/exponential.h"
#include "cpu/rotation_head_kernels.h"
}  // namespace
}  // namespace baseline
const RotationHeadKernels* rotation_head_kernels_baseline() { return &baseline::kRotationHeadKernels; }
}  // namespace crossd_ops::cpu
