// Runs the rotation head against its float64 definition: `rotation_head_check`. One line for each case that fails, then
// a summary; exit status 1 where one does. The CUDA kernels in the emulator, in three orders of threads (`--one-order`:
// in one, enough for ThreadSanitizer); or with -DCHECK_CPU those of the CPU, whose parallel_for the test supplies.
// `brief`: fewer cases; `--first-failure`: ends with the first case that fails.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "program.h"
#include "strided.h"
#if defined(CHECK_CPU)
#include "common/cpu/capability.h"
#include "head/cpu/rotation.h"
#else
#include "head/cuda/rotation_launch.cuh"
#endif

namespace check {

using namespace crossd_ops;

struct Case {
  int64_t samples, height, width;
  Dtype dtype = Dtype::float32;
  Layout map_layout = Layout::contiguous, grad_layout = Layout::contiguous;
  bool exact = false;

  std::string name() const {
    constexpr const char* dtypes[] = {"f64", "f32", "bf16", "f16"};
    return std::to_string(samples) + "x4x" + std::to_string(height) + "x" + std::to_string(width) + " " +
           dtypes[int(dtype)] + " " + layout_name(map_layout) + " to " + layout_name(grad_layout) +
           (exact ? " exact" : " linear");
  }

  // Each kernel, with parts of a sample and without, rows of whole vectors and others: half of the time.
  bool in_brief() const {
    const bool kernels =
        map_layout == Layout::contiguous || map_layout == Layout::channels_last || map_layout == Layout::transposed;
    return kernels && height > 1 && (dtype == Dtype::float32 || dtype == Dtype::bfloat16);
  }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases = {{0, 3, 3}};
  const int64_t sizes[][2] = {{1, 1}, {5, 1}, {3, 5}, {8, 8}, {46, 47}};  // the last: three parts, not of one size
  const Layout layouts[] = {Layout::contiguous, Layout::offset,         Layout::channels_last, Layout::padded,
                            Layout::transposed, Layout::expanded_first, Layout::expanded};
  for (const auto& size : sizes) {
    for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16}) {
      for (const Layout layout : layouts) {
        const bool overlaps = layout == Layout::expanded_first || layout == Layout::expanded;
        Case one{size[0] > 8 ? 2 : 3, size[0], size[1], dtype, layout, overlaps ? Layout::contiguous : layout,
                 size[1] % 2 == 0};
        cases.push_back(one);
        one.grad_layout = layout == Layout::contiguous ? Layout::offset : Layout::contiguous;
        one.exact = !one.exact;
        cases.push_back(one);
      }
    }
  }
  cases.push_back({600, 2, 3});  // more samples than wanted blocks
  return cases;
}

struct Tensors {
  explicit Tensors(const Case& one)
      : accumulate(accumulate_dtype(one.dtype)),
        map({one.samples, 4, one.height, one.width}, 1, one.map_layout, one.dtype),
        grad_map({one.samples, 4, one.height, one.width}, 1, one.grad_layout, one.dtype),
        grad_shift({one.samples, 3}, 0, Layout::contiguous, accumulate),
        shift({one.samples, 3}, 0, Layout::contiguous, accumulate),
        statistics({one.samples, 4, 3}, 0, Layout::contiguous, accumulate) {
    std::mt19937 random(20);
    map.fill(random);
    grad_shift.fill(random);
  }
  Dtype accumulate;
  Strided map, grad_map, grad_shift, shift, statistics;
};

MapStrides strides_of(const Strided& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

void run(const Case& one, Tensors& tensors) {
  const MapShape shape{one.samples, one.height, one.width};
  RotationHeadForward forward{shape,     tensors.map.data(),   strides_of(tensors.map),   one.dtype,
                              one.exact, tensors.shift.data(), tensors.statistics.data(), nullptr};
  const RotationHeadBackward backward{shape,
                                      tensors.map.data(),
                                      strides_of(tensors.map),
                                      one.dtype,
                                      one.exact,
                                      tensors.grad_shift.data(),
                                      tensors.statistics.data(),
                                      tensors.grad_map.data(),
                                      strides_of(tensors.grad_map)};
#if defined(CHECK_CPU)
  cpu::rotation_head_forward(forward);
  cpu::rotation_head_backward(backward);
#else
  const size_t bytes = cuda::head_partial_elements(shape) * element_size(tensors.accumulate);
  const std::unique_ptr<char[]> partial(new char[bytes]);
  std::memset(partial.get(), 0xff, bytes);
  forward.partial = partial.get();
  cuda::launch_rotation_head(forward, nullptr);
  cuda::launch_rotation_head_backward(backward, nullptr);
#endif
}

using Real = long double;

// R^T 1 by the rotation matrix itself.
std::vector<Real> shift_of(const std::vector<Real>& v, bool exact) {
  const Real norm = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) + 1e-8L,
             t = std::tanh(v[3]) * std::acos(-1.0L) / 4;
  const Real x = v[0] / norm, y = v[1] / norm, z = v[2] / norm;
  const Real k[3][3] = {{0, -z, y}, {z, 0, -x}, {-y, x, 0}};
  std::vector<Real> shift(3);
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 3; ++column) {
      Real square = 0;
      for (int i = 0; i < 3; ++i) square += k[row][i] * k[i][column];
      const Real rotated = exact ? std::sin(t) * k[row][column] + (1 - std::cos(t)) * square : t * k[row][column];
      shift[column] += (row == column) + rotated;
    }
  }
  return shift;
}

struct Expected {
  std::vector<double> shift, grad_map;
};

// The gradient of the four pooled numbers by central differences: independent of the formulas under test.
Expected expected_of(const Case& one, const Tensors& tensors) {
  const std::vector<double> map = tensors.map.values({0, 1, 2, 3}), grad_shift = tensors.grad_shift.values({0, 1});
  const int64_t pixels = one.height * one.width;
  Expected expected;
  for (int64_t sample = 0; sample < one.samples; ++sample) {
    std::vector<Real> v(4), sums(4), maxima(4);
    for (int c = 0; c < 4; ++c) {
      const double* of_channel = &map[(sample * 4 + c) * pixels];
      maxima[c] = *std::max_element(of_channel, of_channel + pixels);
      for (int64_t i = 0; i < pixels; ++i) {
        sums[c] += std::exp(of_channel[i] - maxima[c]);
        v[c] += std::exp(of_channel[i] - maxima[c]) * of_channel[i];
      }
      v[c] /= sums[c];
    }
    for (const Real value : shift_of(v, one.exact)) expected.shift.push_back(double(value));
    for (int c = 0; c < 4; ++c) {
      std::vector<Real> above = v, below = v;
      const Real step = 1e-6L;
      above[c] += step, below[c] -= step;
      const std::vector<Real> high = shift_of(above, one.exact), low = shift_of(below, one.exact);
      Real grad = 0;
      for (int d = 0; d < 3; ++d) grad += grad_shift[sample * 3 + d] * (high[d] - low[d]) / (2 * step);
      for (int64_t i = 0; i < pixels; ++i) {
        const Real m = map[(sample * 4 + c) * pixels + i];
        expected.grad_map.push_back(double(grad * std::exp(m - maxima[c]) / sums[c] * (1 + m - v[c])));
      }
    }
  }
  return expected;
}

// The largest error as a fraction of what is allowed: a part of the largest value, and the rounding of the stored type.
double worst(const std::vector<double>& got, const std::vector<double>& expected, Dtype dtype, double relative) {
  double largest = 0, result = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = relative * largest + 0.51 * unit_in_last_place(expected[i], dtype);
    const double fraction = std::fabs(got[i] - expected[i]) / allowed;
    result = std::max(result, std::isnan(fraction) ? HUGE_VAL : fraction);
  }
  return result;
}

// Empty, or what is wrong.
std::string fault_of(const Case& one, bool three_orders) {
  Tensors tensors(one);
  const Expected expected = expected_of(one, tensors);
  std::string first;
#if defined(CHECK_CPU)
  for (int order = 0; order < (three_orders ? 3 : 1); ++order) {
#else
  for (const emu::Order order : {emu::Order::random, emu::Order::forward, emu::Order::reverse}) {
    if (!three_orders && order != emu::Order::random) continue;
    emu::order = order;
#endif
    tensors.shift.poison(), tensors.statistics.poison(), tensors.grad_map.poison();
    run(one, tensors);
    const std::string bits = tensors.shift.raw() + tensors.statistics.raw() + tensors.grad_map.raw();
    if (first.empty()) first = bits;
    if (bits != first) return "the result depends on the order of threads";
  }
  if (tensors.grad_map.wrote_outside()) return "wrote outside of the gradient";
  const double tolerance = one.dtype == Dtype::float64 ? 1e-9 : 2e-6;
  const double of_shift = worst(tensors.shift.values({0, 1}), expected.shift, tensors.accumulate, tolerance);
  const double of_map = worst(tensors.grad_map.values({0, 1, 2, 3}), expected.grad_map, one.dtype, tolerance);
  if (of_shift <= 1 && of_map <= 1) return "";
  return "error of the shift " + std::to_string(of_shift) + ", of the gradient " + std::to_string(of_map) +
         " of what is allowed";
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  const bool three_orders = !program.has("--one-order"), brief = program.has("brief");
  for (const check::Case& one : check::far_apart(check::all_cases())) {
    if (brief && !one.in_brief()) continue;
    if (!program.goes_on_after(one.name(), [&] { return check::fault_of(one, three_orders); })) break;
  }
#if defined(CHECK_CPU)
  std::printf("capability %s\n", crossd_ops::cpu::cpu_capability());
#endif
  return program.finish();
}
