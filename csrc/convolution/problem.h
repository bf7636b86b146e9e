// What the per-sample convolution is asked to do, checked.
#pragma once
#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/library_calls.h"
#include "common/memory_format.h"
#include "convolution/tf32.h"
#include "shift/op.h"

namespace crossd_ops {

struct ConvolutionProblem {
  ShiftShape shape;             // of all kernels
  Geometry geometry;            // of one sample's convolution
  std::vector<int64_t> kernel;  // sizes of a kernel, one for each axis of the convolution
  std::vector<int64_t> image;   // pixels of the input along each of them
  std::vector<int64_t> result;  // sizes of the output: (B, O, ...)
  Tensor shift;                 // dense, of the type that the kernels compute in; undefined where they are given
  Dtype dtype;                  // of input, kernels and output
  MemoryFormat format;          // of input, output and the input's gradient
  double input_elements;
  bool on_gpu;          // or treated as if it were, see goes_by_dispatcher
  bool tf32;            // float32, which may be rounded on a GPU
  bool matrices_round;  // float32, which may not, and which products of matrices may round all the same

  int64_t samples() const { return shape.samples; }
  int64_t rows() const { return shape.out_channels; }
  bool is_empty() const { return std::min({samples(), rows(), shape.in_channels}) == 0; }
  int64_t kernel_elements() const { return product(kernel); }
  bool has_weight() const { return shift.defined(); }  // one for all samples: kernels are not given
  int64_t weight_elements() const {                    // of a pair of channels
    return has_weight() ? int64_t{1} * shape.kernel[0] * shape.kernel[1] * shape.kernel[2] : kernel_elements();
  }
  int64_t pixels() const { return product({result.begin() + 2, result.end()}); }
  int64_t columns() const {  // elements of all of them, see convolution/columns.h
    return samples() * shape.in_channels * geometry.groups * kernel_elements() * pixels();
  }
  int64_t row_of_columns() const {  // elements: on a GPU whole sectors of 32 bytes; products want vectors of 16
    if (tf32 && pixels() % 4 == 0) return pixels();  // without gaps: see methods/products.h
    const int64_t sector = on_gpu ? 32 / size_of(dtype) : 1;
    return (pixels() + sector - 1) / sector * sector;
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

// Output channels whose kernels are to exist at the same time; the last block may have fewer.
//
// Kernels that outgrow a cache are made and used some output channels at a time. Beyond 32 MB glibc's malloc also gives
// memory back at every free, and faults in page after page cost more than the convolution of 512 channels of 7x7 pixels
// itself. A block has whole vectors of channels: 52 at a time take the library's grouped convolution more than twice as
// long as 64.
inline int64_t rows_of_block(const ConvolutionProblem& problem, const Tensor& input) {
  constexpr int64_t kBlockBytes = 16 << 20, kFewestRows = 32;  // a thinner matrix product is a slow one
  constexpr int64_t kVector = 16;
  const int64_t elements = problem.samples() * problem.rows() * problem.shape.in_channels * problem.kernel_elements();
  const int64_t bytes = elements * size_of(problem.dtype);
  if (bytes <= kBlockBytes || problem.geometry.groups > 1 || goes_by_dispatcher(input)) return problem.rows();
  const int64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  const int64_t vectors = (problem.rows() + blocks * kVector - 1) / (blocks * kVector);
  return std::max(kFewestRows, vectors * kVector);
}

// What a call says beside its tensors, as the operators take it: one list, since each argument of its own costs a call
// from Python half a microsecond to a microsecond.
struct Place {
  Geometry geometry;
  int64_t dim = 0;
  std::optional<int64_t> index;  // none: with the whole weight, of volumes
};

// numbers: stride, padding and dilation, each once or along each axis; groups; of slices, dim and index may follow.
inline Geometry checked_geometry(const std::vector<int64_t>& numbers, int64_t axes, bool of_slices) {
  const int64_t count = static_cast<int64_t>(numbers.size()), each = count >= 3 * axes + 1 ? axes : 1;
  const int64_t groups_at = 3 * each, left = count - groups_at - 1;
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  require(left == 0 || (left == 2 && of_slices), [&] {
    return "place: expected stride, padding and dilation (once, or along each of " + std::to_string(axes) +
           " axes), groups" + (of_slices ? ", and perhaps dim and index" : "") + ", got " +
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
  return {part("stride", 0, 1), part("padding", 1, 0), part("dilation", 2, 1), numbers[groups_at]};
}

// Of images the slice is the middle one along the first axis where none is named.
inline Place checked_place(const std::vector<int64_t>& numbers, int64_t axes, const Tensor& weight) {
  const size_t count = numbers.size();
  Place place{checked_geometry(numbers, axes, /*of_slices=*/axes == 2), 0, {}};
  if (axes != 2) return place;
  const bool named = count % 3 == 0;  // 4 or 7 numbers come before dim and index
  place.index = named ? numbers[count - 1] : weight.size(2) / 2;
  if (named) place.dim = numbers[count - 2];
  return place;
}

inline void check_same_device(const char* name, const Tensor& tensor, const Tensor& weight) {
  require(tensor.is_cuda() == weight.is_cuda() && tensor.get_device_index() == weight.get_device_index(),
          [&] { return std::string(name) + ": expected the device of weight"; });
}

inline void check_bias(const Tensor& bias, const Tensor& input, const Tensor& weight, int64_t out_channels) {
  check_same_device("bias", bias, weight);
  const ScalarType type = bias.scalar_type(), of_input = input.scalar_type();
  const bool fits = type == of_input || (type == ScalarType::Float && size_of(checked_dtype(input, "input")) == 2);
  require(bias.dim() == 1 && bias.size(0) == out_channels && fits, [&] {
    return "bias: expected (" + std::to_string(out_channels) +
           ",) of the dtype of input, or float32 beside a half type, got " + shape_text(bias);
  });
}

inline void check_grad_of_output(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                 const ConvolutionProblem& problem) {
  check_grad(grad, weight, problem.result);
  require(grad.scalar_type() == input.scalar_type(), [] { return std::string("grad: expected the dtype of input"); });
}

inline int64_t checked_axes(const Tensor& input) {
  require(input.dim() == 4 || input.dim() == 5,
          [&] { return "input: expected (B, C, H, W) or (B, C, D, H, W), got " + shape_text(input); });
  return input.dim() - 2;
}

// The sizes of the output, once kernel and geometry are there.
inline void set_result(ConvolutionProblem& problem, const Tensor& input) {
  problem.result = {problem.samples(), problem.rows()};
  const auto& [stride, padding, dilation, _] = problem.geometry;
  double work = static_cast<double>(std::max<int64_t>(problem.shape.in_channels, 1));
  for (int64_t i = 0; i < problem.geometry.axes(); ++i) {
    work *= static_cast<double>(problem.kernel[i]);
    const int64_t reach = dilation[i] * (problem.kernel[i] - 1) + 1, room = input.size(2 + i) + 2 * padding[i] - reach;
    require(room >= 0, [&] {
      return "input: expected at least " + std::to_string(reach) + " pixels along each axis with padding, got " +
             shape_text(input);
    });
    problem.image.push_back(input.size(2 + i));
    problem.result.push_back(room / stride[i] + 1);
  }
  for (const int64_t size : problem.result) work *= static_cast<double>(std::max<int64_t>(size, 1));
  require(work < 0x1p58, [&] {  // so nothing that is computed from these sizes, bytes included, wraps around
    return "input: expected a convolution of fewer than 2^58 multiply-adds, got sizes " +
           shape_text(problem.result.data(), problem.result.size()) + " of the result";
  });
}

// shape: of all kernels; kernel: sizes of one; shift: undefined where kernels are given.
inline ConvolutionProblem checked_problem(const Tensor& input, const ShiftShape& shape, Geometry geometry,
                                          std::vector<int64_t> kernel, Tensor shift) {
  const int64_t groups = geometry.groups;
  require(groups >= 1 && shape.out_channels % groups == 0, [&] {
    return "groups: expected a divisor of " + std::to_string(shape.out_channels) + " output channels, got " +
           std::to_string(groups);
  });
  const int64_t in_channels = shape.in_channels * groups;
  require(input.size(0) == shape.samples && input.size(1) == in_channels, [&] {
    return "input: expected (" + std::to_string(shape.samples) + ", " + std::to_string(in_channels) + ", ...), got " +
           shape_text(input);
  });
  const Dtype dtype = checked_dtype(input, "input");
  const Tf32 tf32 = Tf32::allowed();
  ConvolutionProblem problem{shape,
                             std::move(geometry),
                             std::move(kernel),
                             {},
                             {},
                             std::move(shift),
                             dtype,
                             memory_format_of(input),
                             static_cast<double>(input.numel()),
                             goes_by_dispatcher(input),
                             dtype == Dtype::float32 && tf32.convolutions,
                             dtype == Dtype::float32 && tf32.products && !tf32.convolutions};
  set_result(problem, input);
  return problem;
}

inline ConvolutionProblem checked_convolution(const Tensor& input, const Tensor& weight, const Tensor& shift,
                                              const std::vector<int64_t>& numbers) {
  const int64_t axes = checked_axes(input);
  check_rank_of_weight(weight);
  auto [geometry, dim, index] = checked_place(numbers, axes, weight);
  const ScalarType compute_type = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  checked_dtype(input, "input");
  checked_dtype(shift, "shift");
  const Tensor compute_shift = shift.scalar_type() == compute_type ? shift : torch::stable::to(shift, compute_type);
  check_weight_and_shift(weight, compute_shift, dim, index);
  check_same_device("input", input, weight);
  const ShiftShape shape = make_shape(weight, compute_shift, dim, index);
  const std::vector<int64_t> kernel(shape.kernel + (index ? 1 : 0), shape.kernel + 3);
  return checked_problem(input, shape, std::move(geometry), kernel, dense(compute_shift));
}

// Of kernels (B, O, C, ...) that are given.
inline ConvolutionProblem checked_sample_convolution(const Tensor& input, const Tensor& weight,
                                                     const std::vector<int64_t>& numbers) {
  const int64_t axes = checked_axes(input);
  const auto sizes = weight.sizes();
  require(weight.dim() == 3 + axes, [&] {
    return std::string("weight: expected (B, O, C, ") + (axes == 2 ? "Kh, Kw" : "Kd, Kh, Kw") + "), got " +
           shape_text(weight);
  });
  Geometry geometry = checked_geometry(numbers, axes, /*of_slices=*/false);
  const std::vector<int64_t> kernel(sizes.begin() + 3, sizes.end());
  for (const int64_t size : kernel)
    require(size >= 1 && size <= std::numeric_limits<int32_t>::max(),
            [&] { return "weight: expected kernel sizes from 1 to 2^31 - 1, got " + shape_text(weight); });
  require(checked_dtype(input, "input") == checked_dtype(weight, "weight"),
          [] { return std::string("input: expected the dtype of weight"); });
  check_same_device("input", input, weight);
  ShiftShape shape{};
  shape.samples = sizes[0], shape.out_channels = sizes[1], shape.in_channels = sizes[2];
  return checked_problem(input, shape, std::move(geometry), kernel, Tensor());
}

}  // namespace crossd_ops
