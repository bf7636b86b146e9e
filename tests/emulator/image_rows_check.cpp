// Runs the copies into rows, one for each pixel of the result, and their adjoint in memory of exactly the size that
// they may touch: `image_rows_check`. Rows must have the bits that a loop over the definition gives them, images the
// same bits with every number of threads, which the test's parallel_for supplies, close to sums in double; both in
// parts, of which none begins with a sample. One line for each case that fails, then a summary; exit status 1 where one
// does.
#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "convolution/cpu/image_rows.h"
#include "program.h"
#include "strided.h"

namespace check {

using namespace crossd_ops;

int64_t elements_of(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

struct Case {
  ColumnsProblem problem;
  Layout layout;
};

std::vector<Case> all_cases() {
  std::mt19937 random(20);
  const auto drawn = [&](int64_t smallest, int64_t largest) {
    return smallest + int64_t(random() % (largest - smallest + 1));
  };
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::float64, Dtype::float32})
    for (const Layout layout : {Layout::contiguous, Layout::offset, Layout::channels_last, Layout::padded,
                                Layout::transposed, Layout::expanded_first, Layout::expanded})
      for (const int64_t channels : {1, 3, 32, 33, 70}) {
        ColumnsProblem problem{drawn(1, 3), channels};
        problem.dtype = dtype;
        for (int axis = 0; axis < 3; ++axis) {
          int64_t left = 0;  // of the padded image, beyond the first window
          do {
            problem.image[axis] = drawn(1, 4), problem.kernel[axis] = drawn(1, 4), problem.stride[axis] = drawn(1, 3);
            problem.padding[axis] = drawn(0, 3), problem.dilation[axis] = drawn(1, 2);
            left = problem.image[axis] + 2 * problem.padding[axis] -
                   problem.dilation[axis] * (problem.kernel[axis] - 1) - 1;
          } while (left < 0);
          problem.result[axis] = left / problem.stride[axis] + 1;
        }
        cases.push_back({problem, layout});
      }
  return cases;
}

class Check {
 public:
  explicit Check(const Case& one)
      : layout_(one.layout),
        problem_(one.problem),
        image_({problem_.samples, problem_.channels, problem_.image[0], problem_.image[1], problem_.image[2]}, 1,
               one.layout, problem_.dtype) {
    problem_.image_sample = image_.stride(0), problem_.image_channel = image_.stride(1);
    problem_.image_pixel = {image_.stride(2), image_.stride(3), image_.stride(4)};
    image_.fill(random_);
    const int64_t rows = problem_.samples * elements_of(problem_.result), most = rows > 1 ? rows / 2 + 1 : 1;
    for (int64_t first = 0; first < rows; first += most) parts_.push_back({first, std::min(most, rows - first)});
  }

  std::string fault() {
    for (int run = 0; run < 6; ++run)  // parallel_for goes through as many ways to share it out
      for (const cpu::Rows& part : parts_) {
        Strided rows = memory_of(part);
        cpu::image_to_rows(problem_, part, image_.data(), rows.data());
        if (rows.raw() != expected(part)) return "wrong rows";
      }
    const bool overlaps = layout_ == Layout::expanded_first || layout_ == Layout::expanded;
    return overlaps ? "" : fault_of_image();
  }

 private:
  Strided memory_of(const cpu::Rows& part) const {
    return Strided({part.count, problem_.channels, elements_of(problem_.kernel)}, 1, Layout::contiguous,
                   problem_.dtype);
  }

  // The definition: visit(element of the part, offset of its pixel in the image) of those that lie on it.
  template <typename Visit>
  void for_each_copy(const cpu::Rows& part, const Visit& visit) const {
    const Axes &kernel = problem_.kernel, &result = problem_.result;
    const int64_t all = elements_of(kernel), pixels = elements_of(result);
    for (int64_t element = 0; element < part.count * problem_.channels * all; ++element) {
      const int64_t row = part.first + element / all / problem_.channels, channel = element / all % problem_.channels;
      const int64_t number = element % all, pixel = row % pixels;
      const Axes at = {pixel / (result[1] * result[2]), pixel / result[2] % result[1], pixel % result[2]};
      const Axes tap = {number / (kernel[1] * kernel[2]), number / kernel[2] % kernel[1], number % kernel[2]};
      int64_t offset = row / pixels * problem_.image_sample + channel * problem_.image_channel;
      bool is_inside = true;
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t place =
            at[axis] * problem_.stride[axis] + tap[axis] * problem_.dilation[axis] - problem_.padding[axis];
        is_inside = is_inside && place >= 0 && place < problem_.image[axis];
        offset += place * problem_.image_pixel[axis];
      }
      if (is_inside) visit(element, offset);
    }
  }

  std::string expected(const cpu::Rows& part) {
    const size_t bytes = element_size(problem_.dtype);
    std::string rows(part.count * problem_.channels * elements_of(problem_.kernel) * bytes, '\0');
    const char* image = static_cast<const char*>(image_.data());
    for_each_copy(part, [&](int64_t element, int64_t offset) {
      std::memcpy(&rows[element * bytes], image + offset * bytes, bytes);
    });
    return rows;
  }

  double pixel(int64_t offset) {
    return read_element(static_cast<char*>(image_.data()) + offset * element_size(problem_.dtype), problem_.dtype);
  }

  std::string fault_of_image() {
    const std::string before = image_.raw();
    std::string first;
    for (int run = 0; run < 6; ++run) {
      std::mt19937 random(30);
      std::memcpy(image_.memory(), before.data(), before.size());
      std::vector<double> sums(before.size()), magnitudes(before.size());
      for (const cpu::Rows& part : parts_)
        for_each_copy(part, [&](int64_t, int64_t offset) {
          sums[offset] = pixel(offset), magnitudes[offset] = std::fabs(pixel(offset));
        });
      for (const cpu::Rows& part : parts_) {
        Strided rows = memory_of(part);
        rows.fill(random);
        const std::vector<double> values = rows.values({0, 1, 2});
        for_each_copy(part, [&](int64_t element, int64_t offset) {
          sums[offset] += values[element], magnitudes[offset] += std::fabs(values[element]);
        });
        cpu::add_rows_to_image(problem_, part, rows.data(), image_.data());
      }
      std::string fault;
      const double unit = unit_in_last_place(1.0, problem_.dtype) * 100;  // of each of at most 64 additions, and more
      for (const cpu::Rows& part : parts_)
        for_each_copy(part, [&](int64_t, int64_t offset) {
          if (!(std::fabs(pixel(offset) - sums[offset]) <= unit * magnitudes[offset])) fault = "wrong sums";
        });
      if (!fault.empty()) return fault;
      if (run == 0) first = image_.raw();
      if (image_.raw() != first) return "depends on threads";
    }
    return "";
  }

  Layout layout_;
  ColumnsProblem problem_;
  Strided image_;
  std::mt19937 random_{20};
  std::vector<cpu::Rows> parts_;
};

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  int number = 0;
  for (const check::Case& one : check::all_cases())
    if (!program.goes_on_after("case " + std::to_string(number++) + " " + layout_name(one.layout),
                               [&] { return check::Check(one).fault(); }))
      break;
  return program.finish();
}
