// Instructions that a warp executes together: matrices of 16-bit elements, or of float32 in their place, from shared
// memory to registers, and their products on tensor cores, added up in float32. Which lane holds which element is in
// the PTX ISA, and in the emulator's fragments.h.
#pragma once
#include "common/cuda/device.cuh"

namespace crossd_ops::cuda {

#if defined(CUDA_ON_CPU)

// Four matrices of 8 x 8: lane 8 j + i brings the address of row i of matrix j, 16 bytes.
template <bool kTransposed>
__forceinline__ void load_matrices(const void* row, uint32_t (&registers)[4]) {
  emu::load_matrices<kTransposed>(registers, row);
}

// To TF32, whose lower 13 bits are 0: the nearest, of two the larger one.
__forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// sums (16 x 8) += a (16 x depth) b (depth x 8), of rows of 32 bytes: depth is 16 for half types, 8 for float32.
template <typename T>
__forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second) {
  const uint32_t b[2] = {b_first, b_second};
  if constexpr (sizeof(T) == 4)
    emu::multiply_add<8>(sums, a, b, emu::tf32_to_float);
  else
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

__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "r"(bits));
  return rounded;
}

__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first,
                                             uint32_t b_second, float) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));
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

// Operands of products whose rows lie in shared memory, float32 rounded: as load_matrices.
template <typename T>
__device__ __forceinline__ void load_operands(const void* row, uint32_t (&registers)[4]) {
  load_matrices<false>(row, registers);
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (uint32_t& bits : registers) bits = round_to_tf32(bits);
  }
}

}  // namespace crossd_ops::cuda
