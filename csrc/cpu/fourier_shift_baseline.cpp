// The CPU kernels for any machine: 16-byte vectors (SSE2, NEON). Chosen at run time, so the file compiles without -m
// flags.
#include <cstdint>

#include "cpu/plan.h"

#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
namespace baseline {
namespace {
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "cpu/direct.h"
#include "cpu/harmonic3.h"
#include "cpu/shift_kernels.h"
}  // namespace
}  // namespace baseline
const Kernels* kernels_baseline() { return &baseline::kKernels; }
}  // namespace crossd_ops::cpu
