// What the per-sample convolution is asked to do, checked; and the one place that chooses how to do it.
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
// No GPU has been measured: there it goes by the costs of convolution/gpu_costs.h, and never sample by sample.
#pragma once
#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "common/checks.h"
#include "common/environment.h"
#include "common/library_calls.h"
#include "common/memory_format.h"
#include "convolution/gpu_costs.h"
#include "shift/op.h"

namespace crossd_ops {

enum class Method {  // in the order of forced_method
  grouped,           // one convolution with B * groups groups, as the published layer has it
  loop,              // one convolution for each sample
  matrix,            // image to columns and a batched matrix product
  small,  // the same without a tensor in between, by products of our own: forward, on the CPU, convolution/small.h
};

struct ConvolutionProblem {
  ShiftShape shape;             // of all kernels
  Geometry geometry;            // of one sample's convolution
  std::vector<int64_t> kernel;  // sizes of a kernel, one for each axis of the convolution
  std::vector<int64_t> result;  // sizes of the output: (B, O, ...)
  Tensor shift;                 // dense, of the type that the kernels compute in
  Dtype dtype;                  // of input, kernels and output
  MemoryFormat format;          // of input, output and the input's gradient
  double input_elements;
  bool on_gpu;  // or treated as if it were, see goes_by_dispatcher

  int64_t samples() const { return shape.samples; }
  int64_t rows() const { return shape.out_channels; }
  int64_t kernel_elements() const { return product(kernel); }
  int64_t pixels() const { return product({result.begin() + 2, result.end()}); }
  int64_t columns() const {  // elements of all of them, see convolution/columns.h
    return samples() * shape.in_channels * geometry.groups * kernel_elements() * pixels();
  }
  int64_t row_of_columns() const {  // elements: on a GPU whole vectors of 16 bytes, which products want too
    const int64_t vector = on_gpu ? 16 / size_of(dtype) : 1;
    return (pixels() + vector - 1) / vector * vector;
  }
  int64_t samples_of_chunk() const {  // whose columns exist at the same time
    constexpr int64_t kMostOfChunk = 1 << 26;
    return on_gpu ? std::clamp<int64_t>(kMostOfChunk / std::max<int64_t>(1, columns() / samples()), 1, samples())
                  : samples();
  }
  bool columns_are_the_image() const {
    const auto all = [](const std::vector<int64_t>& numbers, int64_t value) {
      return std::all_of(numbers.begin(), numbers.end(), [=](int64_t number) { return number == value; });
    };
    return kernel_elements() == 1 && all(geometry.stride, 1) && all(geometry.padding, 0);
  }
  int64_t multiply_adds() const { return columns() * (rows() / geometry.groups); }
  double elements_between_borders() const {  // of a channel: what columns are copied from
    double elements = 1;
    for (size_t i = 0; i < kernel.size(); ++i)
      elements *=
          static_cast<double>((result[2 + i] - 1) * geometry.stride[i] + geometry.dilation[i] * (kernel[i] - 1) + 1);
    return elements;
  }

  static int64_t product(const std::vector<int64_t>& sizes) {
    int64_t result = 1;
    for (const int64_t size : sizes) result *= size;
    return result;
  }
};

// CROSSD_CONVOLUTION_METHOD=grouped|loop|matrix|small in the environment: one for every problem on the CPU, to measure
// and to test it. What cannot be small is a matrix: backward, and half types.
inline std::optional<Method> forced_method() {
  static const std::optional<int> forced =
      chosen_in_environment("CROSSD_CONVOLUTION_METHOD", {"grouped", "loop", "matrix", "small"});
  return forced ? std::optional(static_cast<Method>(*forced)) : std::nullopt;
}

// What columns are copied from must not outgrow them by much.
inline bool can_have_columns(const ConvolutionProblem& problem) {
  constexpr int64_t kFewBorders = 1 << 15;  // elements, or four times the columns that are copied from there
  const int64_t columns = problem.kernel_elements() * problem.pixels();  // of a channel
  return problem.elements_between_borders() <= static_cast<double>(std::max(kFewBorders, 4 * columns));
}

// Columns of some samples at a time; of one alone no more than a gigabyte in float32. One sample's kernels are those of
// a plain convolution.
inline Method choose_on_gpu(const ConvolutionProblem& problem) {
  constexpr int64_t kMostOfSample = 1 << 28;
  const int64_t columns = problem.columns(), samples = problem.samples();
  if (problem.samples() == 1 || !can_have_columns(problem) || columns / samples > kMostOfSample) return Method::grouped;
  const double input = problem.input_elements,
               output = static_cast<double>(ConvolutionProblem::product(problem.result));
  const double kernels =
      static_cast<double>(samples * problem.rows() * problem.shape.in_channels * problem.kernel_elements());
  const GpuProblem counts{input,
                          output,
                          kernels,
                          problem.columns_are_the_image() ? 0 : static_cast<double>(columns),
                          static_cast<double>(problem.multiply_adds()),
                          problem.format == MemoryFormat::channels_last,
                          problem.geometry.groups > 1,
                          problem.dtype};
  return columns_seconds(counts) <= grouped_seconds(counts) ? Method::matrix : Method::grouped;
}

inline Method choose(const ConvolutionProblem& problem, bool backward) {
  if (problem.on_gpu) return choose_on_gpu(problem);
  constexpr int64_t kFewPixels = 100;       // the kernels outweigh the pixels: what counts is how often they are read
  constexpr int64_t kFewChannels = 16;      // grouped kernels waste their lanes
  constexpr int64_t kFewColumns = 1 << 17;  // less work than a convolution's preparations
  constexpr int64_t kFewMultiplyAdds = 1 << 18;  // a library's preparations take as long
  constexpr int64_t kMostColumns = 1 << 26;      // elements, no more memory than this
  const bool can_be_small = !backward && size_of(problem.dtype) >= 4;
  if (forced_method()) return *forced_method() == Method::small && !can_be_small ? Method::matrix : *forced_method();
  const bool can_multiply = can_have_columns(problem);
  if (can_be_small && can_multiply && problem.multiply_adds() <= kFewMultiplyAdds) return Method::small;
  const int64_t columns = problem.columns();
  const bool few_pixels = problem.pixels() <= kFewPixels;
  const bool few_channels = problem.shape.in_channels < kFewChannels && problem.geometry.groups == 1;
  const bool few_columns = columns <= kFewColumns * (backward ? 1 : 2) * (few_channels ? 4 : 1);
  if ((few_pixels || few_columns) && can_multiply && columns <= kMostColumns) return Method::matrix;
  return few_pixels || few_channels ? Method::loop : Method::grouped;
}

// Output channels whose kernels are to exist at the same time; the last block may have fewer.
//
// Kernels that outgrow a cache are made and used some output channels at a time. Beyond 32 MB glibc's malloc also gives
// memory back at every free, and faults in page after page cost more than the convolution of 512 channels of 7x7 pixels
// itself.
inline int64_t rows_of_block(const ConvolutionProblem& problem, const Tensor& input) {
  constexpr int64_t kBlockBytes = 16 << 20, kFewestRows = 32;  // a thinner matrix product is a slow one
  const int64_t elements = problem.samples() * problem.rows() * problem.shape.in_channels * problem.kernel_elements();
  const int64_t bytes = elements * size_of(problem.dtype);
  if (bytes <= kBlockBytes || problem.geometry.groups > 1 || goes_by_dispatcher(input)) return problem.rows();
  const int64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  return std::max(kFewestRows, (problem.rows() + blocks - 1) / blocks);
}

// What a call says beside its tensors, as the operators take it: one list, since each argument of its own costs a call
// from Python half a microsecond to a microsecond.
struct Place {
  Geometry geometry;
  int64_t dim = 0;
  std::optional<int64_t> index;  // none: with the whole weight, of volumes
};

// numbers: stride, padding and dilation, each once or along each axis; groups; of images dim and index of the slice, or
// none for the middle one along the first axis.
inline Place checked_place(const std::vector<int64_t>& numbers, int64_t axes, const Tensor& weight) {
  const int64_t count = static_cast<int64_t>(numbers.size()), each = count >= 3 * axes + 1 ? axes : 1;
  const int64_t groups_at = 3 * each, left = count - groups_at - 1;
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  require(left == 0 || (left == 2 && axes == 2), [&] {
    return "place: expected stride, padding and dilation (once, or along each of " + std::to_string(axes) +
           " axes), groups" + (axes == 2 ? ", and perhaps dim and index" : "") + ", got " +
           shape_text(numbers.data(), numbers.size());
  });
  const auto part = [&](const char* name, int64_t which, int64_t smallest) {
    const auto first = numbers.begin() + which * each;
    const auto [least, most] = std::minmax_element(first, first + each);
    require(*least >= smallest, [&] {
      return std::string(name) + ": expected ints, each at least " + std::to_string(smallest) + ", got " +
             shape_text(&*first, each);
    });
    require(*most <= kLargest, [&] {  // sizes that follow from it stay within their type
      return std::string(name) + ": expected ints below 2^31, got " + shape_text(&*first, each);
    });
    return each == axes ? std::vector<int64_t>(first, first + axes) : std::vector<int64_t>(axes, *first);
  };
  Place place{{part("stride", 0, 1), part("padding", 1, 0), part("dilation", 2, 1), numbers[groups_at]}, 0, {}};
  if (axes == 2) place.index = left ? numbers[groups_at + 2] : weight.size(2) / 2;
  if (left) place.dim = numbers[groups_at + 1];
  return place;
}

inline void check_same_device(const char* name, const Tensor& tensor, const Tensor& weight) {
  require(tensor.is_cuda() == weight.is_cuda() && tensor.get_device_index() == weight.get_device_index(),
          [&] { return std::string(name) + ": expected the device of weight"; });
}

inline ConvolutionProblem checked_convolution(const Tensor& input, const Tensor& weight, const Tensor& shift,
                                              const std::vector<int64_t>& numbers) {
  const auto sizes = input.sizes(), weight_sizes = weight.sizes();
  require(sizes.size() == 4 || sizes.size() == 5,
          [&] { return "input: expected (B, C, H, W) or (B, C, D, H, W), got " + shape_text(input); });
  check_rank_of_weight(weight);
  const int64_t axes = static_cast<int64_t>(sizes.size()) - 2, out_channels = weight_sizes[0];
  auto [geometry, dim, index] = checked_place(numbers, axes, weight);
  const ScalarType compute_type = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Dtype dtype = checked_dtype(input, "input");
  checked_dtype(shift, "shift");
  const Tensor compute_shift = shift.scalar_type() == compute_type ? shift : torch::stable::to(shift, compute_type);
  check_weight_and_shift(weight, compute_shift, dim, index);
  check_same_device("input", input, weight);
  const int64_t groups = geometry.groups, samples = shift.size(0);
  require(groups >= 1 && out_channels % groups == 0, [&] {
    return "groups: expected a divisor of " + std::to_string(out_channels) + " output channels, got " +
           std::to_string(groups);
  });
  const int64_t in_channels = weight_sizes[1] * groups;
  require(sizes[0] == samples && sizes[1] == in_channels, [&] {
    return "input: expected (" + std::to_string(samples) + ", " + std::to_string(in_channels) + ", ...), got " +
           shape_text(input);
  });
  ConvolutionProblem problem{make_shape(weight, compute_shift, dim, index),
                             std::move(geometry),
                             {},
                             {},
                             dense(compute_shift),
                             dtype,
                             memory_format_of(input),
                             static_cast<double>(input.numel()),
                             goes_by_dispatcher(weight)};
  problem.kernel.assign(problem.shape.kernel + (index ? 1 : 0), problem.shape.kernel + 3);
  problem.result.assign(2 + axes, out_channels), problem.result[0] = samples;
  const auto& [stride, padding, dilation, _] = problem.geometry;
  for (int64_t i = 0; i < axes; ++i) {
    const int64_t reach = dilation[i] * (problem.kernel[i] - 1) + 1, room = sizes[2 + i] + 2 * padding[i] - reach;
    require(room >= 0, [&] {
      return "input: expected at least " + std::to_string(reach) + " pixels along each axis with padding, got " +
             shape_text(input);
    });
    problem.result[2 + i] = room / stride[i] + 1;
  }
  double work = static_cast<double>(std::max<int64_t>(weight_sizes[1], 1) * problem.kernel_elements());
  for (const int64_t size : problem.result) work *= static_cast<double>(std::max<int64_t>(size, 1));
  require(work < 0x1p58, [&] {  // so nothing that is computed from these sizes, bytes included, wraps around
    return "input: expected a convolution of fewer than 2^58 multiply-adds, got sizes " +
           shape_text(problem.result.data(), problem.result.size()) + " of the result";
  });
  return problem;
}

}  // namespace crossd_ops
