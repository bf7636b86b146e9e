// Runs the gradient of the kernels of the convolution in tiles as tiles_check.cpp runs the convolution: results must be
// as close to sums in double as their dtype allows, and have the same bits in three orders of threads and in tiles of
// both sizes; where blocks share pixels, the same bits in each order.
#include <vector>

#include "convolution/cuda/tiles_kernels_launch.cuh"
#include "tiles_case.h"

namespace check {

enum class Nan { none, input, grad };  // in one pixel

struct Case {
  TilesKernelsProblem problem;    // without tensors and strides
  int64_t input_room, grad_room;  // elements between pixels, and between their rows, that belong to none
  Nan nan = Nan::none;

  std::string name() const {
    return text_of(problem) + " room " + std::to_string(input_room) + " and " + std::to_string(grad_room) +
           (nan == Nan::input  ? " nan in the input"
            : nan == Nan::grad ? " nan in the gradient"
                               : "");
  }
};

std::vector<Case> all_cases(bool brief) {
  std::mt19937 random(20);
  std::vector<Case> cases;
  const auto add = [&](const TilesKernelsProblem& problem, int64_t vector) {
    const int64_t input_room = vector * drawn(random, 0, 2);
    cases.push_back({problem, input_room, vector * drawn(random, 0, 2)});
  };
  draw_problems(random, brief, &TilesKernelsProblem::in_channels, &TilesKernelsProblem::out_channels, add);
  // Whole tiles and steps, and a pixel, or channels, more and less; rows of one pixel; enough pixels to share. Every
  // two of the three numbers meet.
  int64_t number = 0;
  for (const int64_t pixels : {31, 32, 33, 64, 97, 520})
    for (const int64_t out_channels : {56, 64, 72})
      for (const int64_t in_channels : {56, 64, 192, 200}) {
        const int64_t at = number++;
        if (brief ? in_channels != 64 || out_channels != 72 : (at / 12 + at) % 3 != 0) continue;
        const ImageAxes image = {pixels % 2 ? 1 : pixels, pixels % 2 ? pixels : 1};
        for (const Dtype dtype : {Dtype::bfloat16, Dtype::float32})
          if (dtype == Dtype::bfloat16 || in_channels < 192)
            cases.push_back({plain_problem<TilesKernelsProblem>(image, in_channels, out_channels, dtype), 0, 0});
      }
  // What pixels behind the last would see of the image.
  TilesKernelsProblem few = plain_problem<TilesKernelsProblem>({9, 9}, 8, 8, Dtype::bfloat16);
  few.result = {4, 4}, few.kernel = {3, 3}, few.stride = {2, 2};
  for (const Nan nan : {Nan::input, Nan::grad, Nan::none}) cases.push_back({few, 0, 0, nan});
  cases.back().problem.samples = 0;
  return cases;
}

struct Tensors {
  Tensors(const Case& one, std::mt19937& random)
      : problem(strided(one)),
        input(elements(problem.input_sample, one.input_room), problem.dtype, random),
        grad(elements(problem.grad_sample, one.grad_room), problem.dtype, random),
        grad_kernels(count(), problem.dtype, random) {
    const size_t size = element_size(problem.dtype);
    if (one.nan == Nan::input) std::memset(input.data_at(8 * problem.input_pixel[0] + 3), 0xff, size);
    if (one.nan == Nan::grad) std::memset(grad.data_at(problem.grad_pixel[0] + 3), 0xff, size);
    problem.input = input.data(), problem.grad = grad.data(), problem.grad_kernels = grad_kernels.data();
  }
  static TilesKernelsProblem strided(const Case& one) {
    TilesKernelsProblem problem = one.problem;
    problem.input_pixel[1] = problem.groups * problem.in_channels + one.input_room;
    problem.input_pixel[0] = problem.image[1] * problem.input_pixel[1] + one.input_room;
    problem.input_sample = problem.image[0] * problem.input_pixel[0];
    problem.grad_pixel[1] = problem.groups * problem.out_channels + one.grad_room;
    problem.grad_pixel[0] = problem.result[1] * problem.grad_pixel[1] + one.grad_room;
    problem.grad_sample = problem.result[0] * problem.grad_pixel[0];
    return problem;
  }
  // Of all samples, without the room behind the last.
  int64_t elements(int64_t sample, int64_t room) const {
    return problem.samples * sample - (problem.samples ? room : 0);
  }
  int64_t taps() const { return problem.kernel[0] * problem.kernel[1]; }
  int64_t channels() const { return problem.groups * problem.out_channels; }
  int64_t count() const { return problem.samples * taps() * channels() * problem.in_channels; }

  // What element `at` of the gradient is, and how far it may be from that: zeros around the image.
  EMU_OWN std::pair<double, double> expected(int64_t at) const {
    const TilesKernelsProblem& p = problem;
    const int64_t c = at % p.in_channels, channel = at / p.in_channels % channels();
    const int64_t tap = at / p.in_channels / channels() % taps(), sample = at / p.in_channels / channels() / taps();
    const int64_t of_input = sample * p.input_sample + channel / p.out_channels * p.in_channels + c;
    const double *const seen = input.operands(), *const grads = grad.operands();
    double sum = 0, magnitude = 0;
    const int64_t first_row = tap / p.kernel[1] * p.dilation[0] - p.padding[0];
    const int64_t first_column = tap % p.kernel[1] * p.dilation[1] - p.padding[1];
    const int64_t columns = p.image[1], step = p.stride[1], input_pixel = p.input_pixel[1],
                  grad_pixel = p.grad_pixel[1];
    const int64_t result_columns = p.result[1];
    for (int64_t y = 0; y < p.result[0]; ++y) {
      const int64_t row = y * p.stride[0] + first_row;
      const bool is_row = row >= 0 && row < p.image[0];
      const double* const of_row = seen + (is_row ? of_input + row * p.input_pixel[0] : 0);
      const double* const of_grad = grads + sample * p.grad_sample + y * p.grad_pixel[0] + channel;
      for (int64_t x = 0, column = first_column; x < result_columns; ++x, column += step) {
        const bool is_inside = is_row && column >= 0 && column < columns;
        const double product = (is_inside ? of_row[column * input_pixel] : 0) * of_grad[x * grad_pixel];
        sum += product, magnitude += std::fabs(product);
      }
    }
    const double terms = double(p.result[0] * p.result[1] + 1);
    return {sum, terms * 0x1p-24 * magnitude + 0.51 * unit_in_last_place(sum, p.dtype)};
  }

  std::string fault() const {
    return fault_of_result(grad_kernels, count(), [&](int64_t at) { return expected(at); });
  }

  // The bits of the gradient, by a plan, or by the launcher's own.
  std::string run(const KernelsPlan& plan, bool is_own) {
    std::vector<float> sums(plan.splits > 1 ? plan.splits * count() : 0, NAN);
    TilesKernelsProblem planned = problem;
    planned.partial = sums.empty() ? nullptr : sums.data();
    grad_kernels.poison();
    if (is_own)
      cuda::launch_tiles_kernels_gradient(planned, nullptr);
    else
      cuda::with_type_of_tiles(problem.dtype, [&](auto element) {
        cuda::launch_tiles_kernels_gradient_as<decltype(element)>(planned, plan, nullptr);
      });
    return grad_kernels.raw();
  }

  TilesKernelsProblem problem;
  Elements input, grad, grad_kernels;
};

std::string fault_of(const Case& one, int orders) {
  std::mt19937 random(20);
  Tensors tensors(one, random);
  const KernelsPlan own = plan_of_kernels_gradient(tensors.problem);
  const KernelsPlan narrow = kernels_plan(tensors.problem, 1, 1), wide = kernels_plan(tensors.problem, kWideChunks, 1);
  std::string whole, shared;  // bits where each block sees all pixels, and where three share them
  for (int run = 0; run < orders; ++run) {
    emu::order = kOrders[run];
    const std::string found = tensors.run(own, true);
    const std::string fault = run == 0 ? tensors.fault() : "";
    if (!fault.empty() || tensors.problem.samples == 0) return fault;
    if (run == 0) whole = own.splits == 1 ? found : tensors.run(narrow, false);
    if ((own.splits == 1 && found != whole) || tensors.run(narrow, false) != whole || tensors.run(wide, false) != whole)
      return "depends on threads or tiles";
    const std::string of_three = tensors.run(kernels_plan(tensors.problem, 1, 3), false);
    const std::string fault_of_three = run == 0 ? tensors.fault() : "";
    if (!fault_of_three.empty()) return "in splits: " + fault_of_three;
    if (run == 0) shared = of_three;
    if (run == 0) {
      KernelsPlan others[] = {narrow, wide};
      for (KernelsPlan& other : others) other.halved_steps = !other.halved_steps;
      const std::string of_narrow = tensors.run(others[0], false), of_wide = tensors.run(others[1], false);
      const std::string fault_of_other = tensors.fault();
      if (!fault_of_other.empty()) return "in steps that are halved, or not: " + fault_of_other;
      if (of_narrow != of_wide) return "depends on tiles in steps that are halved, or not";
    }
    if (of_three != shared) return "depends on threads where blocks share pixels";
  }
  return "";
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  return program.check(check::far_apart(check::all_cases(program.has("brief"))), check::fault_of);
}
