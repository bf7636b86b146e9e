// What the checks of the convolution in tiles share: sizes by chance, how they are told, and tensors.
#pragma once
#include <cmath>
#include <memory>
#include <random>
#include <string>

#include "convolution/tiles_problem.h"
#include "half_types.h"

namespace check {

using namespace crossd_ops;

inline int64_t drawn(std::mt19937& random, int64_t smallest, int64_t largest) {
  return smallest + int64_t(random() % (largest - smallest + 1));
}

// An axis of an image of a size, and all that goes along it.
template <typename Problem>
void draw_axis(std::mt19937& random, Problem& problem, int axis, int64_t size, int64_t kernel) {
  int64_t left = 0;  // of the padded image, beyond the first window
  do {
    problem.image[axis] = size, problem.kernel[axis] = kernel, problem.stride[axis] = drawn(random, 1, 3);
    problem.padding[axis] = drawn(random, 0, 3), problem.dilation[axis] = drawn(random, 1, 2);
    left = size + 2 * problem.padding[axis] - problem.dilation[axis] * (kernel - 1) - 1;
  } while (left < 0);
  problem.result[axis] = left / problem.stride[axis] + 1;
}

template <typename Problem>
std::string text_of(const Problem& problem) {
  const auto both = [](const ImageAxes& axes) { return std::to_string(axes[0]) + "x" + std::to_string(axes[1]); };
  return std::to_string(problem.samples) + "x" + both(problem.image) + "x" + std::to_string(problem.in_channels) +
         " to " + std::to_string(problem.out_channels) +
         (problem.dtype == Dtype::bfloat16  ? " bf16"
          : problem.dtype == Dtype::float16 ? " f16"
                                            : " tf32") +
         " groups " + std::to_string(problem.groups) + " kernel " + both(problem.kernel) + " stride " +
         both(problem.stride) + " padding " + both(problem.padding) + " dilation " + both(problem.dilation);
}

// What tensor cores take of a number: of a float32 the 11 bits of TF32.
inline double operand(double value, Dtype dtype) {
  if (dtype != Dtype::float32 || value == 0 || !std::isfinite(value)) return value;
  const double unit = std::ldexp(1.0, std::ilogb(value) - 10);
  return std::round(value / unit) * unit;
}

// Elements in memory of exactly their size.
class Elements {
 public:
  Elements(int64_t count, Dtype dtype, std::mt19937& random)
      : size_(element_size(dtype)), count_(count), dtype_(dtype), memory_(new char[count * size_]) {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < count; ++i) write_element(&memory_[i * size_], dtype, normal(random));
  }
  double at(int64_t i) const { return read_element(&memory_[i * size_], dtype_); }
  double operand_at(int64_t i) const { return operand(at(i), dtype_); }
  void* data() { return memory_.get(); }
  void* data_at(int64_t i) { return &memory_[i * size_]; }
  void poison() { std::memset(memory_.get(), 0xff, count_ * size_); }
  std::string raw() const { return std::string(memory_.get(), count_ * size_); }

 private:
  int64_t size_, count_;
  Dtype dtype_;
  std::unique_ptr<char[]> memory_;
};

}  // namespace check
