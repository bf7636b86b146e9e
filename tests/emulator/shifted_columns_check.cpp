// Runs the shifted columns, and all their gradients, as tiles_check.cpp runs the convolution in tiles: results must be
// as close to sums in double as their dtypes allow, and have the same bits in three orders of threads. Each case asks
// for some rows of a batch, in which the samples' first and last may be incomplete.
#include <vector>

#include "convolution/shifted_columns/cuda/launch.cuh"
#include "program.h"
#include "shifted_columns_case.h"

namespace check {

int runs = 3;

ShiftedColumnsProblem drawn_problem(std::mt19937& random, Dtype dtype, const Axes& weight, int sliced, int64_t side) {
  ShiftedColumnsProblem problem{drawn(random, 1, 3)};
  problem.groups = drawn(random, 1, 2), problem.channels = problem.groups * drawn(random, 1, 4);
  problem.weight = weight, problem.sliced = sliced, problem.index = sliced < 0 ? -1 : int(random() % weight[sliced]);
  problem.dtype = dtype, problem.shift_dtype = accumulate_dtype(dtype);
  for (int axis = 0; axis < 3; ++axis) {
    if (axis == 0 && sliced >= 0)
      problem.image[0] = problem.kernel[0] = problem.result[0] = problem.stride[0] = problem.dilation[0] = 1;
    else
      draw_axis(random, problem, axis, drawn(random, 1, side), weight[weight_axis(problem, axis)]);
  }
  const int64_t rows = problem.samples * elements_of(problem.result);
  problem.first_row = random() % 2 ? 0 : int64_t(random() % rows);
  problem.rows = random() % 2 ? rows - problem.first_row : drawn(random, 1, rows - problem.first_row);
  problem.accumulate = random() % 2;
  return problem;
}

std::vector<Case> all_cases(bool brief) {
  std::mt19937 random(20);
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16})
    for (const Axes& weight : {Axes{3, 3, 3}, Axes{1, 3, 5}, Axes{5, 7, 1}, Axes{5, 5, 5}, Axes{1, 1, 1}})
      for (int sliced = -1; sliced < 3; ++sliced)
        for (int round = 0; round < (brief || weight != Axes{3, 3, 3} ? 1 : 4); ++round) {
          if (brief && (dtype == Dtype::float16 || (weight != Axes{3, 3, 3} && dtype != Dtype::float32))) continue;
          if (brief && weight == Axes{5, 5, 5} && sliced % 2) continue;
          cases.push_back({drawn_problem(random, dtype, weight, sliced, brief ? 4 : 5), drawn(random, 0, 2)});
        }
  // Pairs and vectors of channels.
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16})
    for (const int64_t of_group : {8, 24}) {
      if (brief && dtype == Dtype::float64) continue;
      Case one{drawn_problem(random, dtype, {3, 3, 3}, of_group == 24 ? -1 : 0, 4)};
      one.problem.channels = one.problem.groups * of_group, one.room = of_group == 8 ? 16 : 0;
      cases.push_back(one);
    }
  // Several blocks of each sample.
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float32}) {
    Case one{drawn_problem(random, dtype, {3, 3, 3}, 0, 1)};
    one.problem.samples = 3, one.problem.groups = 1, one.problem.channels = 64;
    one.problem.image = {1, 7, 7}, one.problem.result = {1, 7, 7}, one.problem.padding = {0, 1, 1};
    one.problem.stride = one.problem.dilation = {1, 1, 1};
    one.problem.first_row = 70, one.problem.rows = 60;
    cases.push_back(one);
    if (brief) break;
  }
  cases.push_back({drawn_problem(random, Dtype::float64, {7, 7, 7}, brief ? 1 : -1, 2)});
  for (const double shift : {1e4, double(NAN), double(INFINITY)})
    for (const Axes& weight : {Axes{3, 3, 3}, Axes{1, 3, 1}})
      cases.push_back({drawn_problem(random, Dtype::float32, weight, 1, 3), 0, shift});
  cases.push_back(cases.front()), cases.back().problem.rows = 0;
  cases.push_back(cases.front()), cases.back().problem.samples = cases.back().problem.rows = 0;
  cases.back().problem.first_row = 0;
  return cases;
}

std::string fault_of(const Case& one) {
  constexpr emu::Order orders[] = {emu::Order::random, emu::Order::forward, emu::Order::reverse};
  std::mt19937 random(20);
  Tensors own(one, random);
  const ShiftedColumnsProblem& problem = own.problem;
  Elements grad = own.columns, seen = own.seen, image = own.image;
  std::string bits;
  for (int run = 0; run < runs; ++run) {
    emu::order = orders[run];
    own.columns.poison();
    cuda::launch_image_to_shifted_columns(problem, own.image.data(), own.shift.data(), own.columns.data(), nullptr);
    std::string fault = run == 0 ? own.fault_of_columns() : "";
    if (!fault.empty()) return fault;
    std::string found = own.columns.raw();
    own.columns.copy(grad);
    for (const auto& [need_seen, need_shift] : {std::pair{true, true}, {false, true}, {true, false}}) {
      own.seen.poison(), own.partial.poison();
      cuda::launch_shifted_columns_gradient(problem, own.columns.data(), need_shift ? own.image.data() : nullptr,
                                            own.shift.data(), need_seen ? own.seen.data() : nullptr,
                                            need_shift ? own.partial.data() : nullptr, nullptr);
      fault = run == 0 ? own.fault_of_gradient(need_seen, need_shift) : "";
      if (!fault.empty()) return fault;
      found += own.seen.raw() + own.partial.raw();
    }
    own.seen.copy(seen), own.image.copy(image);
    if (!problem.accumulate) own.image.poison();
    cuda::launch_seen_to_image(problem, own.seen.data(), own.image.data(), nullptr);
    fault = run == 0 ? own.fault_of_image(image) : "";
    if (!fault.empty()) return fault;
    found += own.image.raw();
    own.image.copy(image);
    if (run == 0) bits = found;
    if (found != bits) return "depends on threads";
  }
  return "";
}

}  // namespace check

int main(int count, char** arguments) {
  check::Program program(count, arguments);
  if (program.has("--one-order")) check::runs = 1;
  for (const check::Case& one : check::far_apart(check::all_cases(program.has("brief"))))
    if (!program.goes_on_after(one.name(), [&] { return check::fault_of(one); })) break;
  return program.finish();
}
