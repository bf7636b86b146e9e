// Runs the CUDA kernels of the whole head in the emulator against its definition in float64: `cuda_head_check`. Options
// as rotation_head_check's, and `extreme`: the cases of very many samples, or of a large mean.
#include <cmath>
#include <string>
#include <vector>

#include "cuda_head_reference.h"
#include "head/cuda/head_launch.cuh"
#include "program.h"

namespace check {

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  // One to eight ways of channels, and more than those hold; tiles that are not full; several parts of a sample.
  const int64_t sizes[][4] = {{1, 1, 1, 1},  {3, 3, 5, 1},   {2, 17, 7, 7},  {3, 40, 6, 8},
                              {2, 72, 9, 5}, {2, 136, 7, 7}, {2, 300, 3, 3}, {1, 32, 33, 41}};
  const Layout layouts[] = {Layout::contiguous, Layout::channels_last,  Layout::offset,  Layout::padded,
                            Layout::transposed, Layout::expanded_first, Layout::expanded};
  int number = 0;
  for (const auto& size : sizes) {
    for (const Layout layout : layouts) {
      for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16}) {
        Case one{size[0], size[1], size[2], size[3], dtype, layout};
        one.training = number % 2 == 0, one.exact = number / 2 % 2 == 0, one.half_parameters = number % 5 == 1;
        one.beside = number % 7 < 4;
        cases.push_back(one);
        ++number;
      }
    }
  }
  for (const bool training : {false, true}) {
    for (const bool input : {false, true}) {  // what is not wanted is not written
      Case one{2, 40, 4, 7, Dtype::float32, Layout::channels_last};
      one.training = training, one.need_input = input, one.need_parameters = !input;
      cases.push_back(one);
    }
  }
  for (const int64_t channels : {1, 2, 3}) {  // one pass backward, where no gradient of the input is wanted
    for (const Layout layout : {Layout::contiguous, Layout::channels_last, Layout::padded, Layout::transposed}) {
      for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16}) {
        Case one{3, channels, 7, 7, dtype, layout};
        one.training = number % 4 > 0, one.exact = number % 2 == 0, one.half_parameters = number % 5 == 1;
        one.need_input = false;
        cases.push_back(one);
        ++number;
      }
    }
  }
  Case several_tiles{2, 3, 29, 41, Dtype::float32, Layout::channels_last};
  several_tiles.need_input = false;
  cases.push_back(several_tiles);
  Case many{270, 4, 2, 2, Dtype::float32, Layout::contiguous};  // more items than blocks
  cases.push_back(many);
  many.channels = 3, many.need_input = false;
  cases.push_back(many);
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16})  // few blocks: of each sample in parts, a part or two
    cases.push_back({3, 136, 7, 7, dtype, Layout::channels_last});
  for (const int64_t channels : {288, 520})  // more chunks than a block has warps, and more than stay in shared memory
    cases.push_back({2, channels, 5, 3, Dtype::bfloat16, Layout::channels_last});
  Case large_mean{2, 8, 20, 20, Dtype::float32, Layout::contiguous};
  large_mean.input_mean = 1000, large_mean.need_parameters = false;  // of weight1: the difference of large sums
  cases.push_back(large_mean);
  large_mean.channels = 3, large_mean.need_input = false, large_mean.need_parameters = true;  // of a pivot
  cases.push_back(large_mean);
  return cases;
}

struct Run {
  explicit Run(const Case& one)
      : grad_input({one.samples, one.channels, one.height, one.width}, 1, one.grad_layout(), one.dtype),
        shift(Strided({one.samples, 3}, 0, Layout::contiguous, Dtype::float32)),
        statistics(Strided({one.samples, 4, 3}, 0, Layout::contiguous, Dtype::float32)),
        mean(Strided({16}, 0, Layout::contiguous, Dtype::float32)),
        variance(Strided({16}, 0, Layout::contiguous, Dtype::float32)),
        running_mean(Strided({16}, 0, Layout::contiguous, one.parameter_dtype())),
        running_variance(Strided({16}, 0, Layout::contiguous, one.parameter_dtype())) {
    for (const std::vector<int64_t>& size : parameter_sizes(one))
      grads.emplace_back(size, 0, Layout::contiguous, one.parameter_dtype());
  }
  Strided grad_input, shift, statistics, mean, variance, running_mean, running_variance;
  std::vector<Strided> grads;
  int64_t batches = 4;

  std::string bits() const {
    std::string all = grad_input.raw();
    for (const Strided* one : {&shift, &statistics, &mean, &variance, &running_mean, &running_variance})
      all += one->raw();
    for (const Strided& one : grads) all += one.raw();
    return all;
  }
};

MapStrides strides_of(const Strided& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

template <typename Problem, typename Launch>
void with_workspace(const Problem& problem, Launch&& launch) {
  const size_t elements = cuda::head_workspace(problem).total();
  const std::unique_ptr<float[]> workspace(new float[elements]);
  std::fill_n(workspace.get(), elements, NAN);
  launch(problem, workspace.get(), nullptr);
}

void run(const Case& one, Tensors& tensors, Run& results) {
  const HeadInput input{
      {one.samples, one.height, one.width}, one.channels, tensors.input.data(), strides_of(tensors.input), one.dtype};
  const Dtype dtype = one.parameter_dtype();
  const auto values = [&](int i) { return HeadValues{tensors.parameters[i].data(), dtype}; };
  const auto target = [&](Strided& tensor) { return HeadTarget{tensor.data(), dtype}; };
  const HeadParameters parameters{values(0), values(1), values(2), values(3), values(4), values(5), kEpsilon};
  const auto floats = [](Strided& tensor) { return static_cast<float*>(tensor.data()); };
  std::mt19937 random(22);
  results.running_mean.fill(random), results.running_variance.fill(random);
  RunningStatistics running{};
  if (one.tracks())
    running = {target(results.running_mean), target(results.running_variance), &results.batches, kMomentum, one.exact};
  with_workspace(HeadForward{input,
                             parameters,
                             one.training,
                             one.exact,
                             {tensors.given_mean.data(), Dtype::float32},
                             {tensors.given_variance.data(), Dtype::float32},
                             floats(results.mean),
                             floats(results.variance),
                             running,
                             floats(results.shift),
                             floats(results.statistics)},
                 cuda::launch_head);
  std::vector<HeadTarget> grads;
  for (Strided& grad : results.grads) grads.push_back(target(grad));
  with_workspace(HeadBackward{input, parameters, one.training, one.exact, floats(results.mean),
                              floats(results.variance), floats(results.statistics), floats(tensors.grad_shift),
                              one.need_input ? results.grad_input.data() : nullptr,
                              one.beside ? tensors.beside.data() : nullptr, strides_of(results.grad_input),
                              one.need_parameters, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]},
                 cuda::launch_head_backward);
}

// Empty, or the first result that is too far off.
std::string error_of(const Case& one, const Tensors& tensors, const Run& results) {
  const Expected expected = expected_of(one, tensors, results.mean.values({0}), results.variance.values({0}));
  const auto compare = [&](const char* name, const Strided& got, const std::vector<int>& axes,
                           const std::vector<double>& wanted, Dtype dtype) -> std::string {
    const double worst = worst_of(got.values(axes), wanted, dtype, one.tolerance());
    return worst <= 1 ? "" : std::string("error of ") + name + " " + std::to_string(worst) + " of what is allowed";
  };
  const Dtype dtype = one.parameter_dtype();
  std::string fault = compare("mean", results.mean, {0}, expected.mean, Dtype::float32);
  if (fault.empty()) fault = compare("variance", results.variance, {0}, expected.variance, Dtype::float32);
  if (fault.empty()) fault = compare("shift", results.shift, {0, 1}, expected.shift, Dtype::float32);
  if (fault.empty() && one.tracks()) {
    fault = compare("running mean", results.running_mean, {0}, expected.running_mean, dtype);
    if (fault.empty())
      fault = compare("running variance", results.running_variance, {0}, expected.running_variance, dtype);
    if (results.batches != 5) fault = "batches counted wrong";
  }
  if (fault.empty() && one.need_input)
    fault = compare("gradient of input", results.grad_input, {0, 1, 2, 3}, expected.grad_input, one.dtype);
  constexpr const char* names[] = {"weight1", "bias1", "gain", "offset", "weight2", "bias2"};
  for (int i = 0; i < 6 && fault.empty() && one.need_parameters; ++i) {
    const std::vector<int> axes = results.grads[i].rank() == 2 ? std::vector<int>{0, 1} : std::vector<int>{0};
    fault = compare(names[i], results.grads[i], axes, expected.grads[i], dtype);
  }
  return fault;
}

std::string fault_of(const Case& one, bool three_orders) {
  Tensors tensors(one);
  std::string first;
  for (const emu::Order order : {emu::Order::random, emu::Order::forward, emu::Order::reverse}) {
    if (!three_orders && order != emu::Order::random) continue;
    emu::order = order;
    Run results(one);
    run(one, tensors, results);
    if (!first.empty()) {
      if (results.bits() != first) return "the result depends on the order of threads";
      continue;
    }
    first = results.bits();
    if (results.grad_input.wrote_outside()) return "wrote outside of the gradient";
    const std::string fault = error_of(one, tensors, results);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  const bool three_orders = !program.has("--one-order"), brief = program.has("brief");
  const bool extreme = program.has("extreme");
  for (const check::Case& one : check::far_apart(check::all_cases())) {
    if ((brief && !one.in_brief()) || (extreme && !one.is_extreme())) continue;
    if (!program.goes_on_after(one.name(), [&] { return check::fault_of(one, three_orders); })) break;
  }
  return program.finish();
}
