// What the checks of the convolution in tiles share: sizes by chance, how they are told, tensors, and the runs of a
// case.
#pragma once
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "convolution/cuda/tiles_launch.cuh"
#include "convolution/tiles_problem.h"
#include "half_types.h"
#include "program.h"

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

// Problems of every dtype and kernels of every size up to 7, of few channels on one side and up to ten vectors on the
// other; calls add(problem, elements of a vector) for each. Of two rounds one has kernels of two sizes.
template <typename Problem, typename Add>
void draw_problems(std::mt19937& random, bool brief, int64_t Problem::* few, int64_t Problem::* many, const Add& add) {
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float16, Dtype::float32})
    for (int64_t kernel = 1; kernel <= 7; ++kernel)
      for (int64_t round = 0; round < (brief ? 1 : 2); ++round) {
        Problem problem{};
        problem.samples = drawn(random, 1, 2), problem.groups = drawn(random, 1, 2), problem.dtype = dtype;
        const int64_t vector = tiles_vector(dtype);
        problem.*few = vector * drawn(random, 1, 5), problem.*many = vector * drawn(random, 1, 10);
        draw_axis(random, problem, 0, drawn(random, 8, 14), kernel);
        draw_axis(random, problem, 1, drawn(random, 8, 14), round == 1 ? drawn(random, 1, 7) : kernel);
        add(problem, vector);
      }
}

// Kernels of one element, strides and dilations of one, no borders.
template <typename Problem>
Problem plain_problem(const ImageAxes& image, int64_t in_channels, int64_t out_channels, Dtype dtype) {
  Problem problem{1, 1, in_channels, out_channels};
  problem.image = problem.result = image, problem.kernel = problem.stride = problem.dilation = {1, 1};
  problem.dtype = dtype;
  return problem;
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
  Elements(const Elements& other)
      : size_(other.size_), count_(other.count_), dtype_(other.dtype_), memory_(new char[count_ * size_]) {
    copy(other);
  }
  void copy(const Elements& other) { std::memcpy(memory_.get(), other.memory_.get(), count_ * size_); }
  int64_t count() const { return count_; }
  double at(int64_t i) const { return read_element(&memory_[i * size_], dtype_); }
  // What tensor cores take of all, as they are at the first call.
  const double* operands() const {
    if (!operands_) {
      operands_.reset(new double[count_]);
      for (int64_t i = 0; i < count_; ++i) operands_[i] = operand(at(i), dtype_);
    }
    return operands_.get();
  }
  void* data() { return memory_.get(); }
  void* data_at(int64_t i) { return &memory_[i * size_]; }
  void poison() { std::memset(memory_.get(), 0xff, count_ * size_); }
  std::string raw() const { return std::string(memory_.get(), count_ * size_); }

 private:
  int64_t size_, count_;
  Dtype dtype_;
  std::unique_ptr<char[]> memory_;
  mutable std::unique_ptr<double[]> operands_;
};

// The first element of a result that is not what expected(element) has: a value, and how far it may be from that.
template <typename Expected>
std::string fault_of_result(const Elements& result, int64_t count, const Expected& expected) {
  for (int64_t at = 0; at < count; ++at) {
    const auto [sum, allowed] = expected(at);
    const double found = result.at(at);
    if (std::isnan(sum) && std::isnan(found)) continue;
    if (!(std::fabs(found - sum) <= allowed))
      return "element " + std::to_string(at) + " is " + std::to_string(found) + ", the sum is " + std::to_string(sum);
  }
  return "";
}

constexpr emu::Order kOrders[] = {emu::Order::random, emu::Order::forward, emu::Order::reverse};

// Tensors must have a problem, a result of `count()` elements and expected(element). The result must have the same bits
// in the first `orders` orders of threads and in every size of tiles: `by_plan` launches those of the plan, the others
// those of one size each.
template <typename Tensors, typename Launch>
std::string fault_in_tiles(Tensors& tensors, int orders, const Launch& by_plan, const std::vector<Launch>& by_size) {
  std::string first;
  for (int order = 0; order < orders; ++order) {
    emu::order = kOrders[order];
    const auto runs_alike = [&](const Launch& launch) {
      tensors.result.poison();
      launch(tensors.problem);
      if (first.empty()) first = tensors.result.raw();
      return tensors.result.raw() == first;
    };
    bool alike = order > 0 || runs_alike(by_plan);
    for (const Launch& launch : by_size) alike = alike && (tensors.problem.samples == 0 || runs_alike(launch));
    if (!alike) return "depends on threads or tiles";
  }
  return fault_of_result(tensors.result, tensors.count(), [&](int64_t at) { return tensors.expected(at); });
}

}  // namespace check
