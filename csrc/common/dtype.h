// The types that tensors may have, to kernels and operators alike. Free of torch and of CUDA.
#pragma once
#include <cstdint>

namespace crossd_ops {

enum class Dtype : int32_t { float64 = 0, float32 = 1, bfloat16 = 2, float16 = 3 };

constexpr int size_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }  // bytes

// Sums are accumulated in float64 for a float64 weight, in float32 for every other; shift and its gradient have that
// type.
constexpr Dtype accumulate_dtype(Dtype weight) { return weight == Dtype::float64 ? Dtype::float64 : Dtype::float32; }

}  // namespace crossd_ops
