// Small products with columns on the CPU, against sums in double.
#pragma once
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "convolution/cpu/small_product.h"

#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
#include "common/cpu/simd.h"
#include "convolution/cpu/small_product_kernels.h"
}  // namespace crossd_ops::cpu

namespace check {

using namespace crossd_ops;

template <typename T>
std::string fault_of_product(int64_t rows, int64_t inner, int64_t columns, int64_t bias_stride) {
  std::mt19937 random(20);
  std::uniform_real_distribution<T> element(-1, 1);
  const auto filled = [&](int64_t count) {
    std::vector<T> values(count);
    for (T& value : values) value = element(random);
    return values;
  };
  const std::vector<T> w = filled(rows * inner), x = filled(inner * columns);
  const std::vector<T> bias = filled(bias_stride ? (rows - 1) * bias_stride + 1 : 0);
  std::vector<T> y(rows * columns, T(NAN));
  std::vector<T> x_and_more = x;
  x_and_more.resize(x.size() + cpu::kProductSlack, T(NAN));
  const T* given = bias.empty() ? nullptr : bias.data();
  cpu::multiply_any<T>({rows, inner, columns, w.data(), x_and_more.data(), given, bias_stride, y.data()});
  for (int64_t i = 0; i < rows * columns; ++i) {
    double sum = bias.empty() ? 0 : bias[i / columns * bias_stride];
    for (int64_t k = 0; k < inner; ++k) sum += double(w[i / columns * inner + k]) * x[k * columns + i % columns];
    if (!(std::fabs(y[i] - sum) <= (inner + 1) * double(inner + 1) * std::numeric_limits<T>::epsilon()))
      return "element " + std::to_string(i) + " is " + std::to_string(y[i]) + ", the sum is " + std::to_string(sum);
  }
  return "";
}

inline std::string fault_of_products() {
  std::string fault;
  for (const int64_t rows : {1, 4, 6})
    for (const int64_t inner : {1, 9})
      for (const int64_t columns : {1, 7, 8, 9, 15, 16, 17, 40})
        for (const int64_t bias_stride : {0, 1, 2}) {
          if (fault.empty()) fault = fault_of_product<float>(rows, inner, columns, bias_stride);
          if (fault.empty()) fault = fault_of_product<double>(rows, inner, columns, bias_stride);
        }
  return fault;
}

}  // namespace check
