// A product of small matrices on one core. Of few multiply-adds a library's preparations outweigh the work.
#pragma once
#include <cstdint>

namespace crossd_ops::cpu {

// y = w x + bias, all dense but the bias: y [rows, columns], w [rows, inner], x [inner, columns]; bias [rows] or null.
// What comes after x, as many elements as kProductSlack, is read too, and must not trap.
template <typename T>
struct SmallProduct {
  int64_t rows, inner, columns;
  const T *w, *x, *bias;
  int64_t bias_stride;
  T* y;
};

constexpr int64_t kProductSlack = 32;

void multiply(const SmallProduct<float>& product);
void multiply(const SmallProduct<double>& product);

// One instruction set's.
struct ProductKernels {
  void (*multiply_float32)(const SmallProduct<float>&);
  void (*multiply_float64)(const SmallProduct<double>&);
};
const ProductKernels* product_kernels_baseline();
const ProductKernels* product_kernels_avx2();  // null where this is not x86-64
const ProductKernels* product_kernels_avx512();

}  // namespace crossd_ops::cpu
