// Which lane holds which element, by the PTX ISA ("Matrix fragments for mma.m16n8k16 with floating point type",
// "... for mma.m16n8k8" of .tf32, "ldmatrix"). Alone in a file, for the test that holds it against CuTe's layouts.
#pragma once

namespace emu::fragment {

struct Place {
  int row, column;
};

// mma.m16n8k16 of 16-bit elements, two in a register, the first in the low half, and mma.m16n8k8 of 32 bits; `element`
// counts those of a lane. A is 16 x depth, B is depth x 8, C and D are 16 x 8.
template <int kDepth>
__attribute__((always_inline)) constexpr Place of_a(int lane, int element) {
  static_assert(kDepth == 16 || kDepth == 8);
  if (kDepth == 8) return {lane / 4 + element % 2 * 8, lane % 4 + element / 2 * 4};
  return {lane / 4 + element / 2 % 2 * 8, lane % 4 * 2 + element % 2 + element / 4 * 8};
}
template <int kDepth>
__attribute__((always_inline)) constexpr Place of_b(int lane, int element) {
  static_assert(kDepth == 16 || kDepth == 8);
  if (kDepth == 8) return {lane % 4 + element * 4, lane / 4};
  return {lane % 4 * 2 + element % 2 + element / 2 * 8, lane / 4};
}
__attribute__((always_inline)) constexpr Place of_c(int lane, int element) {
  return {lane / 4 + element / 2 * 8, lane % 4 * 2 + element % 2};
}

// ldmatrix: of the rows of eight elements of 16 bits whose addresses the lanes bring, row 8 j + i being row i of matrix
// j, the element that a lane gets; `element` counts two in each register, a register for each matrix.
template <bool kTransposed>
__attribute__((always_inline)) constexpr Place of_matrices(int lane, int element) {
  const int matrix = element / 2, along = lane / 4, across = lane % 4 * 2 + element % 2;
  return kTransposed ? Place{8 * matrix + across, along} : Place{8 * matrix + along, across};
}

}  // namespace emu::fragment
