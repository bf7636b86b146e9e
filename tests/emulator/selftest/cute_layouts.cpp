// The emulator's fragment layouts against those of CuTe, which nobody here wrote. A CuTe layout maps (lane, element) to
// a place in a matrix that is stored by columns, m + 16 k for A; for ldmatrix (lane, bit) to a bit of what is copied.
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>

#include "fragments.h"

using namespace emu::fragment;

int checks = 0, failures = 0;

void expect(const char* what, int lane, int element, int got, int by_cute) {
  ++checks;
  if (got == by_cute) return;
  std::printf("%s, lane %d, element %d: %d, by CuTe %d\n", what, lane, element, got, by_cute);
  ++failures;
}

template <int kDepth, typename Operation>
void check_product() {
  using Traits = cute::MMA_Traits<Operation>;
  static_assert(cute::is_same_v<typename Traits::Shape_MNK, cute::Shape<cute::_16, cute::_8, cute::Int<kDepth>>>);
  const typename Traits::ALayout a;
  const typename Traits::BLayout b;
  const typename Traits::CLayout c;
  static_assert(cute::size(a) == 16 * kDepth && cute::size(b) == 8 * kDepth && cute::size(c) == 16 * 8);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < kDepth / 2; ++i) {
      const Place at = of_a<kDepth>(lane, i);
      expect("A", lane, i, at.row + 16 * at.column, int(a(lane, i)));
    }
    for (int i = 0; i < kDepth / 4; ++i) {
      const Place at = of_b<kDepth>(lane, i);
      expect("B", lane, i, at.column + 8 * at.row, int(b(lane, i)));  // CuTe's is 8 x depth
    }
    for (int i = 0; i < 4; ++i) {
      const Place at = of_c(lane, i);
      expect("C", lane, i, at.row + 16 * at.column, int(c(lane, i)));
    }
  }
}

template <bool kTransposed, int kCount, typename Operation>
void check_matrices() {
  using Traits = cute::Copy_Traits<Operation>;
  const typename Traits::SrcLayout source;
  const typename Traits::DstLayout target;
  int element_at[32 * 8];  // of row and column, by its first bit
  for (int row = 0; row < 8 * kCount; ++row)
    for (int i = 0; i < 8; ++i) element_at[int(source(row, 16 * i)) / 16] = row * 8 + i;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2 * kCount; ++i) {
      const Place at = of_matrices<kTransposed>(lane, i);
      expect("ldmatrix", lane, i, at.row * 8 + at.column, element_at[int(target(lane, 16 * i)) / 16]);
    }
  }
}

int main() {
  check_product<16, cute::SM80_16x8x16_F32BF16BF16F32_TN>();
  check_product<16, cute::SM80_16x8x16_F32F16F16F32_TN>();
  check_product<8, cute::SM80_16x8x8_F32TF32TF32F32_TN>();
  check_matrices<false, 1, cute::SM75_U32x1_LDSM_N>();
  check_matrices<false, 2, cute::SM75_U32x2_LDSM_N>();
  check_matrices<false, 4, cute::SM75_U32x4_LDSM_N>();
  check_matrices<true, 1, cute::SM75_U16x2_LDSM_T>();
  check_matrices<true, 2, cute::SM75_U16x4_LDSM_T>();
  check_matrices<true, 4, cute::SM75_U16x8_LDSM_T>();
  std::printf("%d of %d places differ\n", failures, checks);
  return failures != 0;
}
