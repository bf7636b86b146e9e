// The product of small matrices, for one instruction set. Included like simd.h.
//
// Some rows by two vectors of columns at a time, whose sums stay in registers: four rows are eight chains of
// multiply-adds, as many as two units of a latency of four want. Whole vectors are computed at the end of a row too.

template <int kRows, typename T>
inline void multiply_rows(const SmallProduct<T>& p, int64_t row, int64_t column) {
  Vector<T> sums[kRows][2];
  for (int r = 0; r < kRows; ++r)
    sums[r][0] = sums[r][1] = (p.bias ? p.bias[(row + r) * p.bias_stride] : T(0)) - Vector<T>{};
  const T *w = p.w + row * p.inner, *x = p.x + column;
  for (int64_t i = 0; i < p.inner; ++i, x += p.columns) {
    Vector<T> from[2];
    __builtin_memcpy(from, x, sizeof from);
    for (int r = 0; r < kRows; ++r) {
      const T factor = w[r * p.inner + i];
      sums[r][0] += factor * from[0], sums[r][1] += factor * from[1];
    }
  }
  const int64_t left = p.columns - column, count = left < 2 * kLanes<T> ? left : 2 * kLanes<T>;
  for (int r = 0; r < kRows; ++r) {
    T* y = p.y + (row + r) * p.columns + column;
    if (count == 2 * kLanes<T>)  // a length that the compiler knows
      __builtin_memcpy(y, sums[r], sizeof sums[r]);
    else
      __builtin_memcpy(y, sums[r], count * sizeof(T));
  }
}

template <typename T>
void multiply_any(const SmallProduct<T>& p) {
  for (int64_t column = 0; column < p.columns; column += 2 * kLanes<T>) {
    int64_t row = 0;
    for (; row + 4 <= p.rows; row += 4) multiply_rows<4>(p, row, column);
    for (; row < p.rows; ++row) multiply_rows<1>(p, row, column);
  }
}

constexpr ProductKernels kProductKernels{multiply_any<float>, multiply_any<double>};
