// Runs the CUDA kernels in the emulator against the float64 definition: `check_kernels GROUP...`. One line for each
// case, with the largest error as a fraction of its tolerance; exit status 1 where one fails. `--one-order` runs one
// order of threads instead of three: enough for ThreadSanitizer, to which a race is one in any order; other options:
// see program.h.
#include <cstdio>

#include "cases.h"
#include "program.h"
#include "reference.h"
#include "shift/cuda/launch.cuh"

namespace check {

using namespace crossd_ops;

// Relative error allowed to the sums: four to five times the largest that was measured over all groups.
// A large shift is as accurate as a small one, and nothing else makes these errors large: a quarter, in which an angle
// that was rounded before whole turns were taken from it shows where K = 15 multiplies it by 7.
double envelope(Dtype accumulate, Special special) {
  return (accumulate == Dtype::float64 ? 2e-14 : 2e-6) * (special == Special::large_shift ? 0.25 : 1.0);
}

// Half a unit in the last place; float64 may become a half type by way of float32, as in torch, and so be rounded
// twice.
double rounding(double value, Dtype dtype) {
  const double twice = element_size(dtype) == 2 ? 0.5 * unit_in_last_place(value, Dtype::float32) : 0.0;
  return 0.5 * unit_in_last_place(value, dtype) + twice;
}

std::vector<int64_t> spatial_sizes(const Case& one, bool of_output) {
  std::vector<int64_t> sizes;
  for (int axis = 0; axis < 3; ++axis) {
    if (!of_output || one.index == kWhole || axis != one.dim) sizes.push_back(one.kernel[axis]);
  }
  return sizes;
}
std::vector<int64_t> joined(std::vector<int64_t> first, const std::vector<int64_t>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

struct Tensors {
  explicit Tensors(const Case& one)
      : weight(joined({one.out_channels, one.in_channels}, spatial_sizes(one, false)), 1, one.weight_layout,
               one.weight),
        grad(joined({one.samples, one.out_channels, one.in_channels}, spatial_sizes(one, true)), 2,
             one.tap_major ? Layout::tap_major : one.grad_layout, one.out),
        shift({one.samples, 3}, 0, Layout::contiguous, accumulate_dtype(one.weight)),
        out(one.tap_major ? joined(joined({one.samples}, spatial_sizes(one, true)), {one.out_channels, one.in_channels})
                          : joined({one.samples, one.out_channels, one.in_channels}, spatial_sizes(one, true)),
            2, Layout::contiguous, one.out),
        grad_weight(joined({one.out_channels, one.in_channels}, spatial_sizes(one, false)), 1, one.grad_weight_layout,
                    one.weight),
        grad_shift({one.samples, 3}, 0, Layout::contiguous, accumulate_dtype(one.weight)) {}
  Strided weight, grad, shift, out, grad_weight, grad_shift;
};

ShiftShape make_shape(const Case& one) {
  ShiftShape shape{one.samples, one.out_channels, one.in_channels, {}, {}, std::max(one.index, 0), 1};
  shape.axis[0] = one.dim, shape.axis[1] = one.dim == 0, shape.axis[2] = one.dim == 2 ? 1 : 2;
  for (int a = 0; a < 3; ++a) shape.kernel[a] = one.kernel[shape.axis[a]];
  if (one.index == kWhole) shape.slices = shape.kernel[0];
  return shape;
}

WeightStrides weight_strides(const Strided& tensor, const ShiftShape& shape) {
  return {tensor.stride(0),
          tensor.stride(1),
          {tensor.stride(2 + shape.axis[0]), tensor.stride(2 + shape.axis[1]), tensor.stride(2 + shape.axis[2])}};
}

void run_forward(const Case& one, const ShiftShape& shape, Tensors& tensors) {
  cuda::launch_forward({shape, tensors.weight.data(), weight_strides(tensors.weight, shape), one.weight, one.out,
                        tensors.shift.data(), tensors.out.data(), one.tap_major},
                       nullptr);
}

void run_backward(const Case& one, const ShiftShape& shape, Tensors& tensors, bool need_weight, bool need_shift) {
  const int last = one.index == kWhole ? 5 : 4;
  const GradStrides grad_strides{
      tensors.grad.stride(0),
      tensors.grad.stride(1),
      tensors.grad.stride(2),
      {last == 5 ? tensors.grad.stride(3) : 0, tensors.grad.stride(last - 1), tensors.grad.stride(last)}};
  const size_t partial_bytes = cuda::backward_partial_elements(shape) * element_size(accumulate_dtype(one.weight));
  const std::unique_ptr<char[]> partial(new char[partial_bytes]);
  std::memset(partial.get(), 0xff, partial_bytes);
  BackwardProblem problem{};
  problem.shape = shape;
  problem.grad = tensors.grad.data(), problem.grad_strides = grad_strides, problem.grad_dtype = one.out;
  problem.weight_dtype = one.weight;
  problem.weight = tensors.weight.data(), problem.weight_strides = weight_strides(tensors.weight, shape);
  problem.shift = tensors.shift.data();
  problem.grad_weight = need_weight ? tensors.grad_weight.data() : nullptr;
  problem.grad_weight_strides = weight_strides(tensors.grad_weight, shape);
  problem.grad_shift = need_shift ? tensors.grad_shift.data() : nullptr;
  problem.partial = need_shift ? partial.get() : nullptr;
  cuda::launch_backward(problem, nullptr);
}

constexpr int kSpecialSample = 1;

void fill_inputs(const Case& one, Tensors& tensors) {
  std::mt19937 random(20);
  tensors.weight.fill(random);
  tensors.grad.fill(random);
  tensors.shift.fill(random);
  const Dtype dtype = accumulate_dtype(one.weight);
  char* shift = static_cast<char*>(tensors.shift.data());
  const auto set = [&](int at, double value) { write_element(shift + at * element_size(dtype), dtype, value); };
  if (one.special == Special::nan_shift) set(3 * kSpecialSample + one.dim, std::nan(""));
  if (one.special == Special::infinite_shift) set(3 * kSpecialSample + 2, HUGE_VAL);
  if (one.special == Special::large_shift) {
    const double values[] = {1000.25, -77.5, 1e6 + 0.5, 4.0, -12345.75, 3e9, -1.0, 0.0, 1.0};
    for (int i = 0; i < 9; ++i) set(i, values[i]);
  }
}

Expected expected_of(const Case& one, const ShiftShape& shape, const Tensors& tensors) {
  const std::vector<double> shift = tensors.shift.values({0, 1});
  std::vector<double> canonical_shift, weight, grad;
  for (size_t i = 0; i < shift.size(); ++i) canonical_shift.push_back(shift[i / 3 * 3 + shape.axis[i % 3]]);
  weight = tensors.weight.values({0, 1, 2 + shape.axis[0], 2 + shape.axis[1], 2 + shape.axis[2]});
  grad =
      tensors.grad.values(one.index == kWhole ? std::vector<int>{0, 1, 2, 3, 4, 5} : std::vector<int>{0, 1, 2, 3, 4});
  return expected_results(shape, weight, canonical_shift, grad);
}

// The largest error as a fraction of the tolerance; infinite where NaN is on one side only.
double worst(const std::vector<double>& got, const std::vector<double>& expected, const std::vector<double>* scales,
             Dtype dtype, double relative) {
  double largest = 0.0, result = 0.0;
  for (const double value : expected) largest = std::max(largest, std::isnan(value) ? 0.0 : std::fabs(value));
  if (got.size() != expected.size()) return HUGE_VAL;
  for (size_t i = 0; i < got.size(); ++i) {
    if (expected[i] == got[i] || (std::isnan(expected[i]) && std::isnan(got[i]))) continue;
    const double margin = relative * (scales ? (*scales)[i] : largest);
    const double tolerance = margin + rounding(std::fabs(expected[i]) + margin, dtype);
    const double fraction = std::fabs(got[i] - expected[i]) / tolerance;
    result = std::max(result, std::isnan(fraction) ? HUGE_VAL : fraction);
  }
  return result;
}

struct Errors {
  double out, grad_weight, grad_shift;
  bool acceptable() const { return out <= 1.0 && grad_weight <= 1.0 && grad_shift <= 1.0; }
};

Errors compare(const Case& one, const ShiftShape& shape, const Tensors& tensors, const Expected& expected) {
  const double relative = envelope(accumulate_dtype(one.weight), one.special);
  const std::vector<double> shift = tensors.grad_shift.values({0, 1});
  std::vector<double> canonical_shift;
  for (size_t i = 0; i < shift.size(); ++i) canonical_shift.push_back(shift[i / 3 * 3 + shape.axis[i % 3]]);
  std::vector<int> out_axes = {0, 1, 2, 3, 4};
  if (one.index == kWhole) out_axes.push_back(5);
  if (one.tap_major) {
    const int last = int(out_axes.size()) - 1;
    out_axes = {0, last - 1, last, 1, 2};
    if (one.index == kWhole) out_axes.push_back(3);
  }
  return {worst(tensors.out.values(out_axes), expected.out, nullptr, one.out, relative),
          worst(tensors.grad_weight.values({0, 1, 2 + shape.axis[0], 2 + shape.axis[1], 2 + shape.axis[2]}),
                expected.grad_weight, nullptr, one.weight, relative),
          worst(canonical_shift, expected.grad_shift, &expected.magnitude, accumulate_dtype(one.weight), relative)};
}

std::string run_all(const Case& one, const ShiftShape& shape, Tensors& tensors) {
  for (Strided* output : {&tensors.out, &tensors.grad_weight, &tensors.grad_shift}) output->poison();
  run_forward(one, shape, tensors);
  run_backward(one, shape, tensors, true, true);
  return tensors.out.raw() + tensors.grad_weight.raw() + tensors.grad_shift.raw();
}

using Orders = std::vector<emu::Order>;

std::string run_case(const Case& one, const Orders& orders) {
  const ShiftShape shape = make_shape(one);
  Tensors tensors(one);
  fill_inputs(one, tensors);
  const Expected expected = expected_of(one, shape, tensors);
  std::string first, fault;
  for (const emu::Order order : orders) {
    emu::order = order;
    const std::string result = run_all(one, shape, tensors);
    if (order == orders.front()) first = result;
    if (result != first) fault = "the result depends on the order of the threads";
  }
  const Errors errors = compare(one, shape, tensors, expected);
  tensors.grad_weight.poison(), run_backward(one, shape, tensors, true, false);
  tensors.grad_shift.poison(), run_backward(one, shape, tensors, false, true);
  const Errors apart = compare(one, shape, tensors, expected);
  run_backward(one, shape, tensors, false, false);
  if (tensors.grad_weight.wrote_outside()) fault = "grad_weight: wrote between the elements";
  if (!apart.acceptable()) fault = "too large an error where only one gradient is wanted";
  if (!errors.acceptable()) fault = "too large an error";
  if (fault.empty()) std::printf("ok  %s: ", one.name().c_str());
  std::printf("out %.2g grad_weight %.2g grad_shift %.2g; alone %.2g %.2g\n", errors.out, errors.grad_weight,
              errors.grad_shift, apart.grad_weight, apart.grad_shift);
  return fault;
}

std::vector<Case> cases_of(const std::string& group) {
  if (group == "dtypes") return dtype_cases();
  if (group == "kernels") return kernel_cases();
  if (group == "layouts") return layout_cases();
  if (group == "sizes") return size_cases();
  if (group == "special") return special_cases();
  return brief_cases();
}

int run_groups(Program& program) {
  Orders orders = {emu::Order::forward, emu::Order::reverse, emu::Order::random};
  if (program.has("--one-order")) orders = {emu::Order::random};
  emu::dynamic_shared_limit = 163 * 1024;  // compute capability 8.0, the least of those that are built for
  std::vector<Case> cases;
  for (const char* group : {"brief", "dtypes", "kernels", "layouts", "sizes", "special"}) {
    if (!program.has(group)) continue;
    const std::vector<Case> of_group = far_apart(cases_of(group));
    cases.insert(cases.end(), of_group.begin(), of_group.end());
  }
  for (const Case& one : cases)
    if (!program.goes_on_after(one.name(), [&] { return run_case(one, orders); })) break;
  std::printf("%llu launches, at most %zu bytes of dynamic shared memory\n",
              static_cast<unsigned long long>(emu::statistics.launches), emu::statistics.largest_dynamic_shared);
  return cases.empty() ? 2 : program.finish();
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  return check::run_groups(program);
}
