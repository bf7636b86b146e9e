// Runs the per-sample convolution in tiles, in the emulator, in memory of exactly the size that it may touch:
// `tiles_check`. Results must be as close to sums in double as their dtype allows, and have the same bits in three
// orders of threads (`--one-order`: in one, enough for ThreadSanitizer; `brief`: with fewer cases) and in tiles of both
// sizes. One line for each case that fails, then a summary; exit status 1 where one does. `--first-failure`: ends with
// it.
#include <cmath>
#include <vector>

#include "convolution/cuda/tiles_launch.cuh"
#include "program.h"
#include "tiles_case.h"

namespace check {

int runs = 3;

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
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float16, Dtype::float32})
    for (int64_t kernel = 1; kernel <= 7; ++kernel)
      for (int64_t round = 0; round < (brief ? 1 : 3); ++round) {
        TilesProblem problem{};
        problem.samples = drawn(random, 1, 2), problem.groups = drawn(random, 1, 2), problem.dtype = dtype;
        const int64_t vector = tiles_vector(dtype);
        problem.in_channels = vector * drawn(random, 1, 5), problem.out_channels = vector * drawn(random, 1, 10);
        draw_axis(random, problem, 0, drawn(random, 8, 14), kernel);
        draw_axis(random, problem, 1, drawn(random, 8, 14), round == 2 ? drawn(random, 1, 7) : kernel);
        cases.push_back({problem, vector * drawn(random, 0, 2), drawn(random, 0, 2)});
      }
  // Whole tiles, and a pixel, or channels, more and less; rows of one pixel.
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float32})
    for (const int64_t pixels : {63, 64, 65, 128, 129})
      for (const int64_t out_channels : {56, 64, 72}) {
        TilesProblem problem{1, 1, 32, out_channels};
        problem.image = problem.result = {1, pixels}, problem.kernel = problem.stride = problem.dilation = {1, 1};
        problem.dtype = dtype;
        cases.push_back({problem, 0, 1});
      }
  // A step that goes on behind the last tap sees nothing, which 0 times NaN is not.
  TilesProblem few{1, 1, 8, 8};
  few.image = few.result = {9, 9}, few.kernel = {3, 3}, few.stride = few.padding = few.dilation = {1, 1};
  few.dtype = Dtype::bfloat16;
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
        bias(channels() * std::max<int64_t>(one.bias_stride, 1), problem.dtype, random),
        out(problem.samples * pixels() * channels(), problem.dtype, random) {
    if (one.has_nan) std::memset(input.data_at(problem.input_sample / 2), 0xff, element_size(problem.dtype));
    problem.input = input.data(), problem.kernels = kernels.data(), problem.out = out.data();
    problem.bias = one.bias_stride ? bias.data() : nullptr, problem.bias_stride = one.bias_stride;
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

  // What element `at` of the output is, and how far it may be from that.
  std::pair<double, double> expected(int64_t at) const {
    const TilesProblem& p = problem;
    const int64_t channel = at % channels(), pixel = at / channels() % pixels(), sample = at / channels() / pixels();
    const int64_t group = channel / p.out_channels, y = pixel / p.result[1], x = pixel % p.result[1];
    double sum = p.bias ? bias.at(channel * p.bias_stride) : 0, magnitude = std::fabs(sum);
    for (int64_t tap = 0; tap < taps(); ++tap) {
      const int64_t row = y * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
      const int64_t column = x * p.stride[1] - p.padding[1] + tap % p.kernel[1] * p.dilation[1];
      if (row < 0 || row >= p.image[0] || column < 0 || column >= p.image[1]) continue;
      const int64_t of_input = sample * p.input_sample + row * p.input_pixel[0] + column * p.input_pixel[1];
      const int64_t of_kernels = ((sample * taps() + tap) * channels() + channel) * p.in_channels;
      for (int64_t c = 0; c < p.in_channels; ++c) {
        const double product =
            input.operand_at(of_input + group * p.in_channels + c) * kernels.operand_at(of_kernels + c);
        sum += product, magnitude += std::fabs(product);
      }
    }
    const double terms = double(taps() * p.in_channels + 1);
    return {sum, terms * 0x1p-24 * magnitude + 0.51 * unit_in_last_place(sum, p.dtype)};
  }

  TilesProblem problem;
  Elements input, kernels, bias, out;
};

template <int kRows>
void launch_rows(const TilesProblem& problem) {
  if (problem.dtype == Dtype::bfloat16)
    cuda::launch_tiles_of<cuda::BFloat16, kRows>(problem, nullptr);
  else if (problem.dtype == Dtype::float16)
    cuda::launch_tiles_of<cuda::Float16, kRows>(problem, nullptr);
  else
    cuda::launch_tiles_of<float, kRows>(problem, nullptr);
}

std::string fault_of(const Case& one) {
  constexpr emu::Order orders[] = {emu::Order::random, emu::Order::forward, emu::Order::reverse};
  std::mt19937 random(20);
  Tensors tensors(one, random);
  std::string first;
  for (int run = 0; run < 2 * runs; ++run) {
    emu::order = orders[run / 2];
    tensors.out.poison();
    if (run == 0 || tensors.problem.samples == 0)
      cuda::launch_tiles(tensors.problem, nullptr);
    else if (run % 2)
      launch_rows<kManyTileRows>(tensors.problem);
    else
      launch_rows<kFewTileRows>(tensors.problem);
    if (run == 0)
      first = tensors.out.raw();
    else if (tensors.out.raw() != first)
      return "depends on threads or tiles";
  }
  const int64_t count = tensors.problem.samples * tensors.pixels() * tensors.channels();
  for (int64_t at = 0; at < count; ++at) {
    const auto [expected, allowed] = tensors.expected(at);
    if (std::isnan(expected) && std::isnan(tensors.out.at(at))) continue;
    if (!(std::fabs(tensors.out.at(at) - expected) <= allowed))
      return "element " + std::to_string(at) + " is " + std::to_string(tensors.out.at(at)) + ", the sum is " +
             std::to_string(expected);
  }
  return "";
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  if (program.has("--one-order")) check::runs = 1;
  for (const check::Case& one : check::all_cases(program.has("brief")))
    if (!program.goes_on_after(one.name(), [&] { return check::fault_of(one); })) return 1;
  return program.finish();
}
