// Runs the copies into columns, their adjoint, and small products with them on the CPU in memory of exactly the size
// that they may touch: `columns_check`. Each case runs with several numbers of threads, which the test's parallel_for
// supplies: columns must have the bits that a loop over the definition gives them, images the same bits every time,
// close to sums in double. One line for each case that fails, then a summary; exit status 1 where one does.
// `--first-failure`: ends with it.
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "convolution/cpu/columns.h"
#include "convolution/cpu/small_product.h"
#include "strided.h"

#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
#include "common/cpu/simd.h"
#include "convolution/cpu/small_product_kernels.h"
}  // namespace crossd_ops::cpu

namespace check {

using namespace crossd_ops;

constexpr int kRuns = 6;  // of each case: parallel_for goes through as many ways to share it out

struct Case {
  ColumnsProblem problem;
  Layout layout;

  std::string name() const {
    constexpr const char* dtypes[] = {"f64", "f32", "bf16", "f16"};
    const auto text_of = [](const Axes& axes) {
      return std::to_string(axes[0]) + "x" + std::to_string(axes[1]) + "x" + std::to_string(axes[2]);
    };
    return std::to_string(problem.samples) + "x" + std::to_string(problem.channels) + "x" + text_of(problem.image) +
           " " + dtypes[int(problem.dtype)] + " " + layout_name(layout) + " kernel " + text_of(problem.kernel) +
           " stride " + text_of(problem.stride) + " padding " + text_of(problem.padding) + " dilation " +
           text_of(problem.dilation);
  }
};

std::vector<Case> all_cases() {
  std::mt19937 random(20);
  const auto drawn = [&](int64_t smallest, int64_t largest) {
    return smallest + int64_t(random() % (largest - smallest + 1));
  };
  const auto draw_axis = [&](ColumnsProblem& problem, int axis, int64_t size) {
    int64_t left = 0;  // of the padded image, beyond the first window
    do {
      problem.image[axis] = size, problem.kernel[axis] = drawn(1, 5), problem.stride[axis] = drawn(1, 3);
      problem.padding[axis] = drawn(0, 3), problem.dilation[axis] = drawn(1, 2);
      left = size + 2 * problem.padding[axis] - problem.dilation[axis] * (problem.kernel[axis] - 1) - 1;
    } while (left < 0);
    problem.result[axis] = left / problem.stride[axis] + 1;
  };
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16})
    for (const Layout layout : {Layout::contiguous, Layout::offset, Layout::channels_last, Layout::padded,
                                Layout::transposed, Layout::expanded_first, Layout::expanded})
      for (const int64_t width : {1, 2, 7, 8, 9, 17, 33})
        for (int axes = 1; axes <= 3; ++axes) {
          ColumnsProblem problem{drawn(1, 3), drawn(1, 3)};
          problem.image = problem.kernel = problem.result = problem.stride = problem.dilation = {1, 1, 1};
          problem.dtype = dtype;
          for (int axis = 3 - axes; axis < 2; ++axis) draw_axis(problem, axis, drawn(1, axes == 2 ? 7 : 4));
          draw_axis(problem, 2, width);
          cases.push_back({problem, layout});
        }
  cases.push_back(cases.front());
  cases.back().problem.samples = 0;
  return cases;
}

struct Tensors {
  explicit Tensors(const Case& one)
      : problem(one.problem),
        image({problem.samples, problem.channels, problem.image[0], problem.image[1], problem.image[2]}, 1, one.layout,
              problem.dtype),
        columns({problem.samples, problem.channels, elements_of(problem.kernel), elements_of(problem.result)}, 1,
                Layout::contiguous, problem.dtype),
        pixels(problem.samples * problem.channels * elements_of(problem.image)) {
    problem.image_sample = image.stride(0), problem.image_channel = image.stride(1);
    problem.image_pixel = {image.stride(2), image.stride(3), image.stride(4)};
  }
  static int64_t elements_of(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

  // The definition: visit(element of the columns, place {sample, channel, z, y, x} of its pixel) for all pixels that
  // lie in the image.
  template <typename Visit>
  void for_each_copy(const Visit& visit) const {
    const auto& [samples, channels, size, kernel, result, stride, padding, dilation, s, c, p, dtype] = problem;
    const std::array<int64_t, 8> sizes = {samples,   channels,  kernel[0], kernel[1],
                                          kernel[2], result[0], result[1], result[2]};
    const int64_t count = samples * channels * elements_of(kernel) * elements_of(result);
    std::array<int64_t, 8> at{};
    for (int64_t element = 0; element < count; ++element) {
      std::array<int64_t, 5> place = {at[0], at[1]};
      bool is_inside = true;
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t pixel = at[5 + axis] * stride[axis] + at[2 + axis] * dilation[axis] - padding[axis];
        is_inside = is_inside && pixel >= 0 && pixel < size[axis];
        place[2 + axis] = pixel;
      }
      if (is_inside) visit(element, place);
      for (int axis = 8; axis-- > 0 && ++at[axis] == sizes[axis];) at[axis] = 0;
    }
  }

  ColumnsProblem problem;
  Strided image, columns;
  size_t pixels;
};

std::string fault_of_columns(Tensors& tensors) {
  const size_t bytes = element_size(tensors.problem.dtype);
  const char* image = static_cast<const char*>(tensors.image.data());
  std::string expected(tensors.columns.raw().size(), '\0');
  tensors.for_each_copy([&](int64_t element, const std::array<int64_t, 5>& place) {
    int64_t offset = 0;
    for (int axis = 0; axis < 5; ++axis) offset += place[axis] * tensors.image.stride(axis);
    std::memcpy(&expected[element * bytes], image + offset * bytes, bytes);
  });
  for (int run = 0; run < kRuns; ++run) {
    tensors.columns.poison();
    cpu::image_to_columns(tensors.problem, tensors.image.data(), tensors.columns.data());
    if (tensors.columns.raw() != expected) return "wrong columns";
  }
  return "";
}

// Empty where the image is as close to sums in double as its dtypes allow.
std::string fault_of_sums(const Tensors& tensors, const std::vector<double>& image) {
  const auto& size = tensors.problem.image;
  const std::vector<double> columns = tensors.columns.values({0, 1, 2, 3});
  std::vector<double> sums(tensors.pixels), magnitudes(tensors.pixels), copies(tensors.pixels);
  tensors.for_each_copy([&](int64_t element, const std::array<int64_t, 5>& place) {
    const auto& [sample, channel, z, y, x] = place;
    const size_t at = (((sample * tensors.problem.channels + channel) * size[0] + z) * size[1] + y) * size[2] + x;
    sums[at] += columns[element], magnitudes[at] += std::fabs(columns[element]), copies[at] += 1;
  });
  const double unit = unit_in_last_place(1.0, accumulate_dtype(tensors.problem.dtype));
  for (size_t at = 0; at < tensors.pixels; ++at) {
    const double of_sum = copies[at] * unit * magnitudes[at];
    const double allowed = of_sum + 0.51 * unit_in_last_place(sums[at], tensors.problem.dtype);
    if (!(std::fabs(image[at] - sums[at]) <= allowed)) {
      return "pixel " + std::to_string(at) + " is " + std::to_string(image[at]) + ", the sum is " +
             std::to_string(sums[at]);
    }
  }
  return "";
}

std::string fault_of_image(Tensors& tensors, std::mt19937& random) {
  tensors.columns.fill(random);
  std::vector<double> first;
  for (int run = 0; run < kRuns; ++run) {
    const bool poisoned = run % 2 == 0;
    poisoned ? tensors.image.poison() : tensors.image.fill(random);
    cpu::columns_to_image(tensors.problem, tensors.columns.data(), tensors.image.data());
    if (poisoned && tensors.image.wrote_outside()) return "wrote outside";
    const std::vector<double> image = tensors.image.values({0, 1, 2, 3, 4});
    if (run == 0) {
      const std::string fault = fault_of_sums(tensors, image);
      if (!fault.empty()) return fault;
      first = image;
    }
    // As bytes: the signs of zeros count.
    if (tensors.pixels != 0 && std::memcmp(image.data(), first.data(), tensors.pixels * sizeof(double)) != 0)
      return "depends on threads or on what the image held";
  }
  return "";
}

std::string fault_of(const Case& one) {
  std::mt19937 random(20);
  Tensors tensors(one);
  tensors.image.fill(random);
  const std::string fault = fault_of_columns(tensors);
  const bool overlaps = one.layout == Layout::expanded_first || one.layout == Layout::expanded;
  return fault.empty() && !overlaps ? fault_of_image(tensors, random) : fault;
}

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

std::string fault_of_products() {
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

int main(int arguments, char** argument) {
  const bool until_failure = arguments > 1 && std::string(argument[1]) == "--first-failure";
  int count = 0, failed = 0;
  for (const check::Case& one : check::all_cases()) {
    const std::string fault = check::fault_of(one);
    ++count;
    if (fault.empty()) continue;
    ++failed;
    std::printf("FAIL %s: %s\n", one.name().c_str(), fault.c_str());
    if (until_failure) return 1;
  }
  const std::string fault = check::fault_of_products();
  ++count;
  if (!fault.empty()) ++failed, std::printf("FAIL products: %s\n", fault.c_str());
  std::printf("%d of %d cases failed\n", failed, count);
  return failed != 0;
}
