// The operators that ask and say which method a convolution takes. Included by ops.cpp.
#pragma once
#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "convolution/choice.h"

namespace crossd_ops {

// Those that a pass moves with the weight as it is on the CPU: what pixels see, and that shifted, are written and read.
inline double shared_elements_on_cpu(const ConvolutionProblem& problem) {
  const double seen = static_cast<double>(problem.columns());
  const double weight = static_cast<double>(problem.rows() * problem.shape.in_channels * problem.weight_elements());
  return problem.input_elements + static_cast<double>(ConvolutionProblem::product(problem.result)) + weight +
         2 * seen * (1 + slices_of_weight(problem));
}

// As JSON, of the convolution that `convolution` would do with these arguments, or `sample_convolution` where there is
// no shift and the kernels of each sample are given, and of its derivative: the key of the problem, what is chosen and
// why, and of each method whether it is possible, the bytes that it moves, its multiply-adds, and on a GPU the seconds
// that they would take by convolution/gpu_costs.h. "plain" is a convolution with one kernel for all samples. Nothing is
// computed, and of the tensors nothing but their sizes is looked at. on_gpu: as if they lay on one;
// need_input: see choose.
inline std::string explain_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& shift,
                                       const std::vector<int64_t>& place, bool backward, bool on_gpu, bool need_input) {
  ConvolutionProblem problem =
      shift ? checked_convolution(input, weight, *shift, place) : checked_sample_convolution(input, weight, place);
  problem.on_gpu = problem.on_gpu || on_gpu;
  require(!problem.is_empty(), [&] { return "input: expected samples and channels, got " + shape_text(input); });
  const Choice choice = choose(problem, backward, need_input);
  GpuProblem counts = counts_of(problem, backward, need_input);
  counts.channels_last = counts.channels_last && problem.on_gpu;
  const double passes = backward && need_input ? 2 : 1;  // each a convolution: the gradients of input and kernels
  std::ostringstream text;
  text.precision(12);
  text << std::boolalpha << "{\"key\": [";
  const char* between = "";
  for (const int64_t number : key_of(problem, backward)) text << between << number, between = ", ";
  text << "], \"chosen\": \"" << kMethodNames[static_cast<int>(choice.method)] << "\", \"why\": \"" << choice.why
       << "\", \"costs\": {";
  const auto cost = [&](const char* name, bool possible, double elements, std::optional<double> seconds,
                        double times = 1) {
    text << "\"" << name << "\": {\"possible\": " << possible
         << ", \"bytes\": " << passes * elements * size_of(problem.dtype)
         << ", \"multiply_adds\": " << passes * times * counts.multiply_adds << ", \"seconds\": ";
    if (seconds && problem.on_gpu)
      text << passes * *seconds << "}";
    else
      text << "null}";
  };
  const double plain = plain_elements(counts, static_cast<double>(problem.samples()));
  cost("plain", true, plain, gpu_seconds(counts, plain, counts.multiply_adds, /*launches=*/1, problem.tf32));
  for (size_t i = 0; i < kMethodNames.size(); ++i) {
    const Method method = static_cast<Method>(i);
    const bool possible = is_possible(problem, method, backward);
    text << ", ";
    switch (method) {
      case Method::matrix: cost(kMethodNames[i], possible, columns_elements(counts), columns_seconds(counts)); break;
      case Method::tiles: cost(kMethodNames[i], possible, tiles_elements(counts), tiles_seconds(counts)); break;
      case Method::grouped: cost(kMethodNames[i], possible, grouped_elements(counts), grouped_seconds(counts)); break;
      case Method::shared:
        cost(kMethodNames[i], possible, problem.on_gpu ? shared_elements(counts) : shared_elements_on_cpu(problem),
             shared_seconds(counts), slices_of_weight(problem));
        break;
      default: cost(kMethodNames[i], possible, grouped_elements(counts), {});
    }
  }
  text << "}}";
  return text.str();
}

// From now on, in this process: `method` for the problem with this key; none: by the rules again.
inline void set_convolution_method(const std::vector<int64_t>& key, const std::optional<std::string>& method) {
  if (!method) return MethodTable::set(key, std::nullopt);
  const auto found = std::find(kMethodNames.begin(), kMethodNames.end(), *method);
  require(found != kMethodNames.end(),
          [&] { return "method: expected grouped, loop, matrix, small, tiles or shared, got " + *method; });
  MethodTable::set(key, static_cast<int>(found - kMethodNames.begin()));
}

}  // namespace crossd_ops
