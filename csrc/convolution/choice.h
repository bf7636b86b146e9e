// The methods of the per-sample convolution, and the one place that chooses among them.
//
// `choose` goes by what `python -m benchmarks.convolution_methods` prints for ResNet-18's layers and small ones (ms on
// two cores of an Intel Xeon (Cascade Lake), float32, B = 4, forward and backward). "plain" has one kernel for all
// samples; the others include building the kernels; "small" has no backward of its own.
//
//   C -> O, kernel, input size        plain        grouped           loop         matrix          small
//   3 -> 64, 7x7, 224            20.6  9.28     19.3  26.1     11.5  10.5     18.6  27.4     82.6
//   64 -> 64, 3x3, 56            7.85  16.2     8.05  16.9     8.97  19.0     9.85  25.4     47.6
//   128 -> 128, 3x3, 28          6.87  14.6     8.02  17.0     8.84  18.6     9.15  18.2     48.0
//   256 -> 256, 3x3, 14          7.10  15.5     9.97  22.2     10.9  24.7     11.1  21.6     47.4
//   512 -> 512, 3x3, 7           8.28  18.6     21.0  70.4     24.0  74.8     18.5  45.0     66.9
//   4 -> 4, 3x3, 8               .179  .595     .332  .691     .199  .487     .086  .318     .072
//   8 -> 8, 3x3, 8               .206  .641     .379  .801     .232  .554     .126  .394     .106
//   3 -> 16, 3x3, 28             .237  .394     .427  .842     .338  .568     .163  .443     .255
//   16 -> 16, 3x3, 12            .257  .702     .433  .898     .385  .901     .209  .540     .271
//   16 -> 16, 3x3, 28            .374  .905     .537  1.16     .748  1.83     .460  1.59     1.12
//   64 -> 64, 3x3, 14            .654  1.54     .967  2.23     1.53  3.34     1.03  2.51     3.35
//
// "shared" loses in all of these. Where samples have few pixels it is what takes less time: the quickest of the others
// by its, of as many output channels, 3x3 or 3x3x3, B = 4, forward and backward (one core of an AMD EPYC (Genoa)):
//
//   input size     512           256           128            64
//   2x2        2.53  2.91    3.28  1.66    2.51  3.06    2.64  1.93
//   3x3        1.62  1.58    1.67  1.67
//   4x4         .87  1.32    1.06   .89                   .72   .78
//   2x2x2      7.02  4.20    5.40  5.01    6.24  3.96    2.16  3.65
//   4x4x4      1.86  1.75    1.48  1.30    1.05  1.13     .64   .83
//   6x6x6      1.61  1.42     .68   .64
//
// No GPU has been measured: there it goes by the costs of convolution/gpu_costs.h, and never sample by sample.
#pragma once
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/environment.h"
#include "convolution/gpu_costs.h"
#include "convolution/method_table.h"
#include "convolution/padding/problem.h"
#include "convolution/problem.h"
#include "convolution/shifted_columns/columns.h"
#include "convolution/tiles.h"

namespace crossd_ops {

enum class Method {  // in the order of kMethodNames
  grouped,           // one convolution with B * groups groups, as the published layer has it
  loop,              // one convolution for each sample
  matrix,            // image to columns and a batched matrix product
  small,   // the same without a tensor in between, by products of our own: forward, on the CPU, methods/small.h
  tiles,   // products of our own on tensor cores: on a GPU, tiles.h
  shared,  // the weight as it is, of all samples, and shifted columns: methods/shared.h, shared_columns.h on a GPU
};
constexpr std::array<const char*, 6> kMethodNames = {"grouped", "loop", "matrix", "small", "tiles", "shared"};

struct Choice {
  Method method;
  const char* why;
};

// CROSSD_CONVOLUTION_METHOD=grouped|loop|matrix|small|shared in the environment: one for every problem on the CPU, to
// test it. What cannot be small, backward, or shared, of kernels that are given, is a matrix.
inline std::optional<Method> forced_method() {
  constexpr std::array<Method, 5> kForced = {Method::grouped, Method::loop, Method::matrix, Method::small,
                                             Method::shared};
  static const std::optional<int> forced =
      chosen_in_environment("CROSSD_CONVOLUTION_METHOD", {"grouped", "loop", "matrix", "small", "shared"});
  return forced ? std::optional(kForced[*forced]) : std::nullopt;
}

// What columns are copied from must not outgrow them by much.
inline bool can_have_columns(const ConvolutionProblem& problem) {
  constexpr int64_t kFewBorders = 1 << 15;  // elements, or four times the columns that are copied from there
  const int64_t columns = problem.kernel_elements() * problem.pixels();  // of a channel
  return problem.elements_between_borders() <= static_cast<double>(std::max(kFewBorders, 4 * columns));
}

// On a GPU of some samples at a time, of one alone no more than a gigabyte in float32; on the CPU of all at once.
inline bool have_room(const ConvolutionProblem& problem) {
  constexpr int64_t kMostOfSample = 1 << 28, kMost = 1 << 26;  // elements
  return problem.on_gpu ? problem.columns() / problem.samples() <= kMostOfSample : problem.columns() <= kMost;
}

// The library's products of matrices go by another setting than its convolutions.
inline bool must_not_be_matrices(const ConvolutionProblem& problem) { return problem.on_gpu && problem.matrices_round; }

inline bool can_be_small(const ConvolutionProblem& problem, bool backward) { return !problem.on_gpu && !backward; }

// On a GPU of odd sizes, which shifted_columns/problem.h knows.
inline bool can_be_shared(const ConvolutionProblem& problem) {
  return problem.has_weight() && (!problem.on_gpu || has_shifted_columns(shifted_columns_sizes(problem)));
}

// Images of half types, or of float32 that may be rounded, in whole vectors of channels, to which contiguous ones are
// copied, and without groups all others; with sizes that the kernels can count in 32 bits.
inline bool can_have_tiles(const ConvolutionProblem& problem, bool backward) {
  constexpr int64_t kMostElements = 1 << 28, kMostStep = 1 << 12;
  if (!problem.on_gpu || problem.kernel.size() != 2) return false;
  if (size_of(problem.dtype) != 2 && !problem.tf32) return false;
  if (is_padded(problem)) return can_have_tiles(padded_problem(problem), backward);
  const auto& [stride, padding, dilation, groups] = problem.geometry;
  const int64_t vector = tiles_vector(problem.dtype);
  if (problem.shape.in_channels % vector != 0 || problem.rows() / groups % vector != 0) return false;
  for (const auto* numbers : {&stride, &padding, &dilation})
    for (const int64_t number : *numbers)
      if (number > kMostStep) return false;
  const double of_kernels = elements_of({problem.rows(), problem.shape.in_channels, problem.kernel_elements()});
  const double of_result = static_cast<double>(problem.rows() * problem.pixels());
  return problem.input_elements / static_cast<double>(problem.samples()) <= kMostElements &&
         of_kernels <= kMostElements && (!backward || of_result <= kMostElements) &&
         tiled_work(problem, backward).blocks <= kMostElements;
}

inline bool is_possible(const ConvolutionProblem& problem, Method method, bool backward) {
  switch (method) {
    case Method::grouped: return true;
    case Method::loop: return !problem.on_gpu;  // where launches cost more than the work of a sample
    case Method::matrix: return !must_not_be_matrices(problem) && can_have_columns(problem) && have_room(problem);
    case Method::small: return can_be_small(problem, backward) && can_have_columns(problem);
    case Method::tiles: return can_have_tiles(problem, backward);
    case Method::shared: return can_be_shared(problem);
  }
  return false;
}

// As many times as a kernel.
inline double slices_of_weight(const ConvolutionProblem& problem) {
  return static_cast<double>(problem.weight_elements()) / static_cast<double>(problem.kernel_elements());
}

// With what is missing of full tiles.
inline double tiled_columns_multiply_adds(const ConvolutionProblem& problem, bool backward) {
  const int64_t rows = problem.rows() / problem.geometry.groups, pixels = problem.pixels();
  const int64_t wide = problem.shape.in_channels * problem.kernel_elements();
  const auto of = [&](int64_t height, int64_t width, int64_t inner) {
    const int64_t tiles = tiles_along(height, kFewTileRows) * tiles_along(width, kTileColumns);
    const int64_t products = problem.samples() * problem.geometry.groups;
    return in_turns(static_cast<double>(products * tiles), elements_of({kFewTileRows, kTileColumns, inner}))
        .multiply_adds;
  };
  if (!backward) return of(rows, pixels, wide);
  return (of(wide, pixels, rows) + of(rows, wide, pixels)) / 2;
}

// Of one product: the backward has two, of the same sizes.
inline GpuProblem counts_of(const ConvolutionProblem& problem, bool backward, bool need_input) {
  const double samples = static_cast<double>(problem.samples());
  const auto padded = is_padded(problem) ? std::optional(padded_problem(problem)) : std::nullopt;
  const double kernels =
      samples * static_cast<double>(problem.rows() * problem.shape.in_channels * problem.kernel_elements());
  return {problem.input_elements,
          static_cast<double>(ConvolutionProblem::product(problem.result)),
          kernels,
          problem.columns_are_the_image() ? 0 : static_cast<double>(problem.columns()),
          static_cast<double>(problem.multiply_adds()),
          tiled_work(padded ? *padded : problem, backward, need_input).multiply_adds,
          tiled_columns_multiply_adds(problem, backward),
          problem.has_weight() ? kernels / samples * slices_of_weight(problem) : 0,
          static_cast<double>(problem.columns()) * slices_of_weight(problem),
          slices_of_weight(problem),
          backward ? static_cast<double>(problem.columns()) : 0,
          backward,
          problem.format == MemoryFormat::channels_last,
          problem.geometry.groups > 1,
          problem.dtype,
          problem.tf32,
          padded ? padding_costs(problem, *padded, backward, need_input) : PaddingCosts{}};
}

inline Choice choose_on_gpu(const ConvolutionProblem& problem, bool backward, bool need_input) {
  if (problem.samples() == 1) return {Method::grouped, "one sample, whose kernels are those of a plain convolution"};
  const bool tiles = can_have_tiles(problem, backward), shared = can_be_shared(problem);
  if (!tiles && !shared && must_not_be_matrices(problem))
    return {Method::grouped, "products of matrices would round float32, which convolutions may not"};
  if (!tiles && !shared && !can_have_columns(problem)) return {Method::grouped, "the borders outweigh the image"};
  if (!tiles && !shared && !have_room(problem))
    return {Method::grouped, "the columns of one sample would take more than a gigabyte"};
  const GpuProblem counts = counts_of(problem, backward, need_input);
  Choice choice = {Method::grouped, "fewest seconds by bytes, multiply-adds and launches"};
  double least = grouped_seconds(counts);
  const auto consider = [&](Method method, double seconds) {
    if (seconds <= least) choice.method = method, least = seconds;
  };
  if (is_possible(problem, Method::matrix, backward)) consider(Method::matrix, columns_seconds(counts));
  if (tiles) consider(Method::tiles, tiles_seconds(counts));
  if (shared) consider(Method::shared, shared_seconds(counts));
  return choice;
}

// Whether the shared weight takes less time than kernels of each sample, in multiply-adds of one element of a kernel:
// those have to be made and read from beyond the caches, the weight to be read, for all samples once. What pixels see
// has to be shifted for each input channel, which its output channels share. Half types are computed in float32; of
// bfloat16 many processors have products of their own, twice as fast.
inline bool is_sooner_shared(const ConvolutionProblem& problem) {
  constexpr double kMade = 40, kRead = 10, kShifted = 80;
  constexpr int64_t kFewElements = 1 << 16;  // of all kernels: what comes beside the work takes longer
  if (problem.samples() * problem.rows() * problem.shape.in_channels * problem.kernel_elements() < kFewElements)
    return false;
  const double pixels = static_cast<double>(problem.pixels()), samples = static_cast<double>(problem.samples());
  const double outputs = static_cast<double>(problem.rows() / problem.geometry.groups);
  const double times = slices_of_weight(problem) * (problem.dtype == Dtype::bfloat16 ? 2 : 1);
  return times * (pixels * (1 + kShifted / outputs) + kRead / samples) < kMade + pixels;
}

inline Choice choose_on_cpu(const ConvolutionProblem& problem, bool backward) {
  constexpr int64_t kFewPixels = 100;
  constexpr int64_t kFewChannels = 16;
  constexpr int64_t kFewColumns = 1 << 17;
  constexpr int64_t kFewMultiplyAdds = 1 << 18;
  const bool can_multiply = can_have_columns(problem);
  if (can_be_shared(problem) && is_sooner_shared(problem))
    return {Method::shared,
            "few pixels of many channels: kernels of each sample would take longer to make than to use"};
  if (can_be_small(problem, backward) && can_multiply && problem.multiply_adds() <= kFewMultiplyAdds)
    return {Method::small, "few multiply-adds: a library's preparations would take as long"};
  const bool is_product = problem.kernel_elements() == 1 && problem.geometry.groups == 1 && can_multiply;
  if (is_product && (problem.columns_are_the_image() || have_room(problem)))
    return {Method::matrix, "kernels of one element: columns are no more than the image"};
  const bool few_pixels = problem.pixels() <= kFewPixels;
  const bool few_channels = problem.shape.in_channels < kFewChannels && problem.geometry.groups == 1;
  const bool few_columns = problem.columns() <= kFewColumns * (backward ? 1 : 2) * (few_channels ? 4 : 1);
  if ((few_pixels || few_columns) && can_multiply && have_room(problem))
    return {Method::matrix, few_pixels ? "few pixels: what counts is how often the kernels are read"
                                       : "few columns: less work than a convolution's preparations"};
  if (few_pixels) return {Method::loop, "few pixels, and no room for columns"};
  if (few_channels) return {Method::loop, "few channels, of which grouped kernels waste their lanes"};
  return {Method::grouped, "many channels and pixels"};
}

// Of the convolution alone, whoever made the kernels. float32 that may be rounded is a type of its own, and so is that
// which matrices alone would round.
inline ProblemKey key_of(const ConvolutionProblem& problem, bool backward) {
  constexpr int64_t kTf32 = 4, kMatricesRound = 5;  // behind those of Dtype
  const Geometry& geometry = problem.geometry;
  ProblemKey key = {problem.on_gpu,
                    backward,
                    problem.on_gpu && problem.tf32  ? kTf32
                    : must_not_be_matrices(problem) ? kMatricesRound
                                                    : static_cast<int64_t>(problem.dtype),
                    problem.format == MemoryFormat::channels_last,
                    problem.shape.in_channels * geometry.groups,
                    geometry.groups};
  for (const auto* numbers :
       {&problem.result, &problem.kernel, &geometry.stride, &geometry.padding, &geometry.dilation})
    key.insert(key.end(), numbers->begin(), numbers->end());
  return key;
}

inline std::string impossible_method(const ConvolutionProblem& problem, Method method, bool backward) {
  std::string possible;
  for (size_t i = 0; i < kMethodNames.size(); ++i)
    if (is_possible(problem, static_cast<Method>(i), backward))
      possible += (possible.empty() ? "" : ", ") + std::string(kMethodNames[i]);
  return "method: expected one of " + possible + " for " + (backward ? "the gradients of a" : "a") +
         " convolution with results " + shape_text(problem.result.data(), problem.result.size()) + " and kernels " +
         shape_text(problem.kernel.data(), problem.kernel.size()) + ", got " +
         kMethodNames[static_cast<size_t>(method)] + ", set by the file that CROSSD_TUNING names, or by this process";
}

// need_input: whether a backward pass makes the gradient of the input, which that of a network's first layer does not.
inline Choice choose(const ConvolutionProblem& problem, bool backward, bool need_input = true) {
  if (const auto forced = problem.on_gpu ? std::nullopt : forced_method()) {
    const bool possible = *forced == Method::small    ? can_be_small(problem, backward)
                          : *forced == Method::shared ? can_be_shared(problem)
                                                      : true;
    return {possible ? *forced : Method::matrix, "CROSSD_CONVOLUTION_METHOD"};
  }
  if (!MethodTable::is_empty()) {
    if (const auto measured = MethodTable::find(key_of(problem, backward))) {
      const Method method = static_cast<Method>(*measured);
      const bool of_another = method == Method::shared && !can_be_shared(problem);  // the same, but for its weight
      require(of_another || is_possible(problem, method, backward),
              [&] { return impossible_method(problem, method, backward); });
      if (!of_another) return {method, "measured"};
    }
  }
  return problem.on_gpu ? choose_on_gpu(problem, backward, need_input) : choose_on_cpu(problem, backward);
}

}  // namespace crossd_ops
