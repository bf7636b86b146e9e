// A product of small matrices on one core. Of a few thousand multiply-adds a library's preparations outweigh the work.
#pragma once
#include <algorithm>
#include <cstdint>

namespace crossd_ops::cpu {

// y = w x + bias, all dense but the bias: y [rows, columns], w [rows, inner], x [inner, columns]; bias [rows] or null.
template <typename T>
struct SmallProduct {
  int64_t rows, inner, columns;
  const T *w, *x, *bias;
  int64_t bias_stride;
  T* y;

  void run() const {
    int64_t column = 0;
    for (; column + kTile <= columns; column += kTile) multiply(column, kTile);
    if (column < columns) multiply(column, columns - column);
  }

 private:
  static constexpr int64_t kTile = 64 / sizeof(T);  // sums that stay in registers

  // Columns first .. first + count - 1. Inlined, so that the compiler knows `count` of whole tiles.
  __attribute__((always_inline)) void multiply(int64_t first, int64_t count) const {
    for (int64_t row = 0; row < rows; ++row) {
      T sums[kTile];
      std::fill_n(sums, kTile, bias ? bias[row * bias_stride] : T(0));
      for (int64_t i = 0; i < inner; ++i)
        for (int64_t c = 0; c < count; ++c) sums[c] += w[row * inner + i] * x[i * columns + first + c];
      std::copy_n(sums, count, y + row * columns + first);
    }
  }
};

}  // namespace crossd_ops::cpu
