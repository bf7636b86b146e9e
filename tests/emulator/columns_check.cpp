// Runs the copies into columns and their adjoint in memory of exactly the size that they may touch: `columns_check`.
// Columns must have the bits that a loop over the definition gives them, images the same bits every time, close to sums
// in double. With -DCHECK_CPU the kernels of the CPU and small products with columns, each case with several numbers of
// threads, which the test's parallel_for supplies; else the CUDA kernels in the emulator, in three orders of threads
// (`--one-order`: in one, enough for ThreadSanitizer; `brief`: with fewer cases). One line for each case that fails,
// then a summary; exit status 1 where one does. `--first-failure`: ends with it.
#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "program.h"
#include "strided.h"
#if defined(CHECK_CPU)
#include "convolution/cpu/columns.h"
#include "small_product_check.h"
#else
#include "convolution/cuda/columns_launch.cuh"
#endif

namespace check {

using namespace crossd_ops;

#if defined(CHECK_CPU)
int runs = 6;  // of each case: parallel_for goes through as many ways to share it out
void begin_run(int) {}
void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns) {
  cpu::image_to_columns(problem, image, columns);
}
void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image) {
  cpu::columns_to_image(problem, columns, image);
}
#else
int runs = 3;
void begin_run(int run) {
  constexpr emu::Order orders[] = {emu::Order::random, emu::Order::forward, emu::Order::reverse};
  emu::order = orders[run];
}
void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns) {
  cuda::launch_image_to_columns(problem, image, columns, nullptr);
}
void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image) {
  cuda::launch_columns_to_image(problem, columns, image, nullptr);
}
#endif

constexpr int64_t kLargeColumns = 200 * 1000;

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
  // One half type is as the other, images that overlap are not written, and large columns take long.
  bool in_brief() const {
    if (problem.dtype == Dtype::float16 || layout == Layout::expanded || layout == Layout::expanded_first) return false;
    const int64_t taps = problem.kernel[0] * problem.kernel[1] * problem.kernel[2];
    if (problem.samples * problem.channels * taps * problem.row > kLargeColumns) return false;
    return problem.channels > 20 || (problem.image[1] > 1 && problem.image[2] > 8 && layout != Layout::padded);
  }
};

// Longer than the result by `more`, or whole vectors.
void set_row(ColumnsProblem& problem, int64_t more) {
  problem.row = problem.result[0] * problem.result[1] * problem.result[2];
#if defined(CHECK_CPU)
  problem.row += more;
#else
  const int64_t vector = 16 / size_of(problem.dtype);
  problem.row = (problem.row + more + vector - 1) / vector * vector;
#endif
}

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
          set_row(problem, drawn(0, 3));
          cases.push_back({problem, layout});
        }
  // Channels in vectors, in whole tiles and others.
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16})
    for (const Layout layout : {Layout::channels_last, Layout::contiguous, Layout::offset})
      for (const int64_t channels : {24, 32, 36, 72}) {
        ColumnsProblem problem{2, channels};
        problem.image = problem.kernel = problem.result = problem.stride = problem.dilation = {1, 1, 1};
        problem.dtype = dtype;
        if (channels == 72) draw_axis(problem, 0, 3);
        draw_axis(problem, 1, 6), draw_axis(problem, 2, 19);
        set_row(problem, 0);
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
        columns({problem.samples, problem.channels, elements_of(problem.kernel), problem.row}, 1, Layout::contiguous,
                problem.dtype),
        pixels(problem.samples * problem.channels * elements_of(problem.image)) {
    problem.image_sample = image.stride(0), problem.image_channel = image.stride(1);
    problem.image_pixel = {image.stride(2), image.stride(3), image.stride(4)};
  }
  static int64_t elements_of(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

  // The definition: visit(offset in the columns, place {sample, channel, z, y, x} of its pixel) for all pixels that
  // lie in the image.
  template <typename Visit>
  void for_each_copy(const Visit& visit) const {
    const auto& [samples, channels, size, kernel, result, stride, padding, dilation, s, c, p, row, dtype] = problem;
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
      if (is_inside) visit(element / elements_of(result) * row + element % elements_of(result), place);
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
  const size_t row = tensors.problem.row * bytes, used = Tensors::elements_of(tensors.problem.result) * bytes;
  for (int run = 0; run < runs; ++run) {
    begin_run(run);
    tensors.columns.poison();
    image_to_columns(tensors.problem, tensors.image.data(), tensors.columns.data());
    const std::string found = tensors.columns.raw();
    for (size_t at = 0; at + row <= found.size(); at += row)
      if (found.compare(at, used, expected, at, used) != 0) return "wrong columns";
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
  for (int run = 0; run < runs; ++run) {
    begin_run(run);
    const bool poisoned = run % 2 == 0;
    poisoned ? tensors.image.poison() : tensors.image.fill(random);
    columns_to_image(tensors.problem, tensors.columns.data(), tensors.image.data());
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

#if !defined(CHECK_CPU)
std::string fault_of_products() { return ""; }
#endif

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  if (program.has("--one-order")) check::runs = 1;
  if (!program.goes_on_after("products", check::fault_of_products)) return program.finish();
  for (const check::Case& one : check::far_apart(check::all_cases())) {
    if (program.has("brief") && !one.in_brief()) continue;
    if (!program.goes_on_after(one.name(), [&] { return check::fault_of(one); })) break;
  }
  return program.finish();
}
