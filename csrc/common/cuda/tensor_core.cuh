// Instructions that a warp executes together: matrices of 16-bit elements from shared memory to registers, and their
// products on tensor cores, added up in float32. Which lane holds which element is in the PTX ISA, and in the
// emulator's fragments.h.
#pragma once
#include "common/cuda/device.cuh"

namespace crossd_ops::cuda {

#if defined(CUDA_ON_CPU)

// Four matrices of 8 x 8: lane 8 j + i brings the address of row i of matrix j, 16 bytes.
template <bool kTransposed>
__forceinline__ void load_matrices(const void* row, uint32_t (&registers)[4]) {
  emu::load_matrices<kTransposed>(registers, row);
}

// sums (16 x 8) += a (16 x 16) b (16 x 8)
template <typename T>
__forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second) {
  const uint32_t b[2] = {b_first, b_second};
  emu::multiply_add<16>(sums, a, b, [](uint32_t bits) { return to_float(T{static_cast<uint16_t>(bits)}); });
}

#else

template <bool kTransposed>
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&registers)[4]) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first,
                                             uint32_t b_second, BFloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));
}
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first,
                                             uint32_t b_second, Float16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));
}

template <typename T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first,
                                             uint32_t b_second) {
  multiply_add(sums, a, b_first, b_second, T{});
}

#endif

}  // namespace crossd_ops::cuda
