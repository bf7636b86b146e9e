// Runs the per-sample convolution in tiles, in the emulator, in memory of exactly the size that it may touch:
// `tiles_check`. Results must be as close to sums in double as their dtype allows, and have the same bits in three
// orders of threads (`--one-order`: in one, enough for ThreadSanitizer; `brief`: with fewer cases) and in tiles of both
// sizes. One line for each case that fails, then a summary; exit status 1 where one does. `--first-failure`: ends with
// it.
#include <cmath>
#include <vector>

#include "convolution/cuda/tiles_launch.cuh"
#include "tiles_case.h"

namespace check {

struct Case {
  TilesProblem problem;  // without tensors and strides
  int64_t room;          // elements between pixels of the input, and between its rows, that belong to none
  int64_t bias_stride;   // 0: no bias
  bool has_nan = false;  // in one pixel

  std::string name() const {
    return text_of(problem) + " room " + std::to_string(room) + " bias " + std::to_string(bias_stride) +
           (has_nan ? " nan" : "");
  }
};

std::vector<Case> all_cases(bool brief) {
  std::mt19937 random(20);
  std::vector<Case> cases;
  const auto add = [&](const TilesProblem& problem, int64_t vector) {
    const int64_t room = vector * drawn(random, 0, 2);
    cases.push_back({problem, room, drawn(random, 0, 2)});
  };
  draw_problems(random, brief, &TilesProblem::in_channels, &TilesProblem::out_channels, add);
  // Whole tiles, and a pixel, or channels, more and less; rows of one pixel.
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float32})
    for (const int64_t pixels : {63, 64, 65, 128, 129})
      for (const int64_t out_channels : {56, 64, 72})
        cases.push_back({plain_problem<TilesProblem>({1, pixels}, 32, out_channels, dtype), 0, 1});
  // A step that goes on behind the last tap sees nothing, which 0 times NaN is not.
  TilesProblem few = plain_problem<TilesProblem>({9, 9}, 8, 8, Dtype::bfloat16);
  few.kernel = {3, 3}, few.padding = {1, 1};
  cases.push_back({few, 0, 0, true});
  cases.push_back({few, 0, 0});
  cases.back().problem.samples = 0;
  return cases;
}

struct Tensors {
  Tensors(const Case& one, std::mt19937& random)
      : problem(strided(one)),
        input(problem.samples * problem.input_sample - (problem.samples ? one.room : 0), problem.dtype, random),
        kernels(problem.samples * taps() * channels() * problem.in_channels, problem.dtype, random),
        // A strided one in float32.
        bias(channels() * std::max<int64_t>(one.bias_stride, 1), one.bias_stride > 1 ? Dtype::float32 : problem.dtype,
             random),
        result(count(), problem.dtype, random) {
    if (one.has_nan) std::memset(input.data_at(problem.input_sample / 2), 0xff, element_size(problem.dtype));
    problem.input = input.data(), problem.kernels = kernels.data(), problem.out = result.data();
    problem.bias = one.bias_stride ? bias.data() : nullptr, problem.bias_stride = one.bias_stride;
    problem.bias_dtype = one.bias_stride > 1 ? Dtype::float32 : problem.dtype;
  }
  static TilesProblem strided(const Case& one) {
    TilesProblem problem = one.problem;
    problem.input_pixel[1] = problem.groups * problem.in_channels + one.room;
    problem.input_pixel[0] = problem.image[1] * problem.input_pixel[1] + one.room;
    problem.input_sample = problem.image[0] * problem.input_pixel[0];
    return problem;
  }
  int64_t taps() const { return problem.kernel[0] * problem.kernel[1]; }
  int64_t pixels() const { return problem.result[0] * problem.result[1]; }
  int64_t channels() const { return problem.groups * problem.out_channels; }
  int64_t count() const { return problem.samples * pixels() * channels(); }

  // What element `at` of the result is, and how far it may be from that.
  EMU_OWN std::pair<double, double> expected(int64_t at) const {
    const TilesProblem& p = problem;
    const int64_t channel = at % channels(), pixel = at / channels() % pixels(), sample = at / channels() / pixels();
    const double *const seen = input.operands(), *const factors = kernels.operands();
    const int64_t group = channel / p.out_channels, y = pixel / p.result[1], x = pixel % p.result[1];
    double sum = p.bias ? bias.at(channel * p.bias_stride) : 0, magnitude = std::fabs(sum);
    for (int64_t tap = 0; tap < taps(); ++tap) {
      const int64_t row = y * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
      const int64_t column = x * p.stride[1] - p.padding[1] + tap % p.kernel[1] * p.dilation[1];
      if (row < 0 || row >= p.image[0] || column < 0 || column >= p.image[1]) continue;
      const int64_t of_input = sample * p.input_sample + row * p.input_pixel[0] + column * p.input_pixel[1];
      const int64_t of_kernels = ((sample * taps() + tap) * channels() + channel) * p.in_channels;
      for (int64_t c = 0; c < p.in_channels; ++c) {
        const double product = seen[of_input + group * p.in_channels + c] * factors[of_kernels + c];
        sum += product, magnitude += std::fabs(product);
      }
    }
    const double terms = double(taps() * p.in_channels + 1);
    return {sum, terms * 0x1p-24 * magnitude + 0.51 * unit_in_last_place(sum, p.dtype)};
  }

  TilesProblem problem;
  Elements input, kernels, bias, result;
};

template <int kRows>
void launch_rows(const TilesProblem& problem) {
  cuda::with_type_of_tiles(problem.dtype,
                           [&](auto element) { cuda::launch_tiles_of<decltype(element), kRows>(problem, nullptr); });
}

std::string fault_of(const Case& one, int orders) {
  std::mt19937 random(20);
  Tensors tensors(one, random);
  const auto by_plan = [](const TilesProblem& problem) { cuda::launch_tiles(problem, nullptr); };
  return fault_in_tiles<Tensors, void (*)(const TilesProblem&)>(
      tensors, orders, by_plan, {launch_rows<kManyTileRows>, launch_rows<kFewTileRows>});
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  return program.check(check::far_apart(check::all_cases(program.has("brief"))), check::fault_of);
}
