// Runs the gradient of the input of the convolution in tiles, in the emulator: `tiles_input_check`, as tiles_check.cpp.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "convolution/cuda/tiles_input_launch.cuh"
#include "tiles_case.h"

namespace check {

struct Case {
  TilesInputProblem problem;  // without tensors and strides
  int64_t room;               // elements between pixels of the gradient, and between its rows, that belong to none
  bool has_nan = false;       // in one pixel

  std::string name() const { return text_of(problem) + " room " + std::to_string(room) + (has_nan ? " nan" : ""); }
};

std::vector<Case> all_cases(bool brief) {
  std::mt19937 random(20);
  std::vector<Case> cases;
  const auto add = [&](const TilesInputProblem& problem, int64_t vector) {
    cases.push_back({problem, vector * drawn(random, 0, 2)});
  };
  draw_problems(random, brief, &TilesInputProblem::out_channels, &TilesInputProblem::in_channels, add);
  // Whole tiles, and a pixel, or channels, more and less; rows of one pixel.
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float32})
    for (const int64_t pixels : {63, 64, 65, 128, 129})
      for (const int64_t in_channels : {56, 64, 72})
        cases.push_back({plain_problem<TilesInputProblem>({1, pixels}, in_channels, 32, dtype), 0});
  // Strides that have a factor in common with dilations, and those beyond kernel and image.
  for (const int64_t stride : {4, 6, 9, 40}) {
    TilesInputProblem wide = plain_problem<TilesInputProblem>({21, 19}, 16, 16, Dtype::bfloat16);
    wide.kernel = {5, 3}, wide.stride = {stride, 4}, wide.dilation = {2, 6}, wide.padding = {3, 1};
    for (int i = 0; i < 2; ++i)
      wide.result[i] =
          (wide.image[i] + 2 * wide.padding[i] - wide.dilation[i] * (wide.kernel[i] - 1) - 1) / wide.stride[i] + 1;
    cases.push_back({wide, 8});
  }
  // A step that goes on behind the last tap sees nothing, which 0 times NaN is not.
  TilesInputProblem few = plain_problem<TilesInputProblem>({9, 9}, 8, 8, Dtype::bfloat16);
  few.kernel = {3, 3}, few.padding = {1, 1};
  cases.push_back({few, 0, true});
  cases.push_back({few, 0});
  cases.back().problem.samples = 0;
  return cases;
}

struct Tensors {
  Tensors(const Case& one, std::mt19937& random)
      : problem(strided(one)),
        grad(problem.samples * problem.grad_sample - (problem.samples ? one.room : 0), problem.dtype, random),
        kernels(problem.samples * taps() * problem.groups * problem.out_channels * problem.in_channels, problem.dtype,
                random),
        result(count(), problem.dtype, random) {
    if (one.has_nan)
      std::memset(grad.data_at(problem.grad_sample / 2), 0xff, static_cast<size_t>(element_size(problem.dtype)));
    problem.grad = grad.data(), problem.kernels = kernels.data(), problem.grad_input = result.data();
  }
  static TilesInputProblem strided(const Case& one) {
    TilesInputProblem problem = one.problem;
    problem.grad_pixel[1] = problem.groups * problem.out_channels + one.room;
    problem.grad_pixel[0] = problem.result[1] * problem.grad_pixel[1] + one.room;
    problem.grad_sample = problem.result[0] * problem.grad_pixel[0];
    return problem;
  }
  int64_t taps() const { return problem.kernel[0] * problem.kernel[1]; }
  int64_t pixels() const { return problem.image[0] * problem.image[1]; }
  int64_t channels() const { return problem.groups * problem.in_channels; }
  int64_t count() const { return problem.samples * pixels() * channels(); }

  // What element `at` of the gradient is, and how far it may be from that.
  EMU_OWN std::pair<double, double> expected(int64_t at) const {
    const TilesInputProblem& p = problem;
    const int64_t channel = at % channels(), pixel = at / channels() % pixels(), sample = at / channels() / pixels();
    const int64_t group = channel / p.in_channels;
    const double *const grads = grad.operands(), *const factors = kernels.operands();
    double sum = 0, magnitude = 0;
    for (int64_t tap = 0; tap < taps(); ++tap) {
      const int64_t y = pixel / p.image[1] + p.padding[0] - tap / p.kernel[1] * p.dilation[0];
      const int64_t x = pixel % p.image[1] + p.padding[1] - tap % p.kernel[1] * p.dilation[1];
      if (y < 0 || x < 0 || y % p.stride[0] || x % p.stride[1]) continue;
      const int64_t row = y / p.stride[0], column = x / p.stride[1];
      if (row >= p.result[0] || column >= p.result[1]) continue;
      const int64_t of_grad = sample * p.grad_sample + row * p.grad_pixel[0] + column * p.grad_pixel[1];
      for (int64_t o = group * p.out_channels; o < (group + 1) * p.out_channels; ++o) {
        const int64_t of_kernels =
            ((sample * taps() + tap) * p.groups * p.out_channels + o) * p.in_channels + channel % p.in_channels;
        const double product = grads[of_grad + o] * factors[of_kernels];
        sum += product, magnitude += std::fabs(product);
      }
    }
    const double terms = double(taps() * p.out_channels);
    return {sum, terms * 0x1p-24 * magnitude + 0.51 * unit_in_last_place(sum, p.dtype)};
  }

  TilesInputProblem problem;
  Elements grad, kernels, result;
};

template <int kRows>
void launch_rows(const TilesInputProblem& problem) {
  cuda::with_type_of_tiles(
      problem.dtype, [&](auto element) { cuda::launch_tiles_input_of<decltype(element), kRows>(problem, nullptr); });
}

std::string fault_of(const Case& one, int orders) {
  std::mt19937 random(20);
  Tensors tensors(one, random);
  const auto by_plan = [](const TilesInputProblem& problem) { cuda::launch_tiles_input_gradient(problem, nullptr); };
  return fault_in_tiles<Tensors, void (*)(const TilesInputProblem&)>(
      tensors, orders, by_plan, {launch_rows<kManyTileRows>, launch_rows<kFewTileRows>});
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  return program.check(check::far_apart(check::all_cases(program.has("brief"))), check::fault_of);
}
