// The tensors of a padded problem, made of those that are given, and the way back from their gradients.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/memory_format.h"
#include "common/tensors.h"
#include "convolution/padding/problem.h"
#include "convolution/tiles.h"

namespace crossd_ops {

inline Tensor zeros_in(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  return alias(torch::stable::new_zeros(like, sizes), sizes, strides);
}

class Padding {
 public:
  explicit Padding(const ConvolutionProblem& given)
      : given_(given), padded_(padded_problem(given)), fold_(folded_pixels(given)) {}

  const ConvolutionProblem& problem() const { return padded_; }

  // (B, C', H, W') of (B, C, H, W), channels-last.
  Tensor image(const Tensor& given) const {
    const std::vector<int64_t> sizes = sizes_of_image();
    const Tensor image = zeros_in(given, sizes, strides_of_format(sizes, MemoryFormat::channels_last));
    copy(given_pixels(given), pixels_of(image));
    return image;
  }
  // The adjoint.
  Tensor image_gradient(const Tensor& grad) const {
    std::vector<int64_t> sizes = {given_.samples(), given_.shape.in_channels, given_.image[0], given_.image[1]};
    const std::vector<int64_t> strides = strides_of_format(sizes, given_.format);
    const Tensor result = width() == given_.image[1] ? new_strided_tensor(grad, sizes, strides, grad.scalar_type())
                                                     : zeros_in(grad, sizes, strides);  // no tap sees the last pixels
    copy(pixels_of(in_format(grad, MemoryFormat::channels_last)), given_pixels(result));
    return result;
  }

  // (B, O', C', Kh, Kw') of (B, O, C, Kh, Kw), tap-major.
  Tensor kernels(const Tensor& given) const {
    const std::vector<int64_t> sizes = sizes_of_kernels();
    const Tensor kernels = zeros_in(given, sizes, tap_major_strides(sizes));
    for (int64_t part = 0; part < fold_; ++part) copy(given_taps(given, part), taps_of(kernels, part));
    return kernels;
  }
  // Without values: for sizes.
  Tensor new_kernels(const Tensor& given) const {
    const std::vector<int64_t> sizes = sizes_of_kernels();
    return new_strided_tensor(given, sizes, tap_major_strides(sizes), given.scalar_type());
  }
  // The adjoint.
  Tensor kernels_gradient(const Tensor& grad) const {
    const Tensor result = new_tensor(
        grad, {given_.samples(), given_.rows(), given_.shape.in_channels, given_.kernel[0], given_.kernel[1]},
        grad.scalar_type());
    for (int64_t part = 0; part < fold_; ++part) copy(taps_of(grad, part), given_taps(result, part));
    return result;
  }

  // Of output channels.
  std::optional<Tensor> bias(const std::optional<Tensor>& given) const {
    if (!given || padded_.rows() == given_.rows()) return given;
    const Tensor bias = zeros_in(*given, {padded_.rows()}, {1});
    copy(*given, part_of(bias, 0, 0, given_.rows()));
    return bias;
  }
  Tensor result_gradient(const Tensor& given) const {
    if (padded_.rows() == given_.rows()) return given;
    const Tensor grad = zeros_in(given, padded_.result, strides_of_format(padded_.result, MemoryFormat::channels_last));
    copy(given, result(grad));
    return grad;
  }
  // A view: the output channels without zeros.
  Tensor result(const Tensor& padded) const { return part_of(padded, 1, 0, given_.rows()); }

 private:
  static void copy(const Tensor& from, const Tensor& to) {
    Tensor target = to;
    torch::stable::copy_(target, from);
  }

  std::vector<int64_t> sizes_of_image() const {
    return {padded_.samples(), padded_.shape.in_channels, padded_.image[0], padded_.image[1]};
  }
  std::vector<int64_t> sizes_of_kernels() const {
    return {padded_.samples(), padded_.rows(), padded_.shape.in_channels, padded_.kernel[0], padded_.kernel[1]};
  }
  int64_t channels() const { return padded_.shape.in_channels / fold_; }  // of a pixel, with zeros
  int64_t left() const { return fold_ > 1 ? given_.geometry.padding[1] : 0; }
  int64_t width() const { return std::min(given_.image[1], fold_ * padded_.image[1] - left()); }  // that taps see

  // (B, C, H, width): what both images have.
  Tensor given_pixels(const Tensor& image) const {
    std::vector<int64_t> sizes = sizes_of(image);
    sizes[3] = width();
    return alias(image, sizes, strides_of(image));
  }
  Tensor pixels_of(const Tensor& padded) const {
    const int64_t row = fold_ * padded_.image[1] * channels();
    return alias(padded, {given_.samples(), given_.shape.in_channels, given_.image[0], width()},
                 {given_.image[0] * row, 1, row, channels()}, left() * channels());
  }

  // (B, O, C, Kh, taps): of every so many taps along the width one, which both kernels have.
  Tensor given_taps(const Tensor& kernels, int64_t part) const {
    std::vector<int64_t> sizes = sizes_of(kernels), strides = strides_of(kernels);
    sizes[4] = (given_.kernel[1] - part + fold_ - 1) / fold_;
    strides[4] *= fold_;
    return alias(kernels, sizes, strides, part * kernels.stride(4));
  }
  Tensor taps_of(const Tensor& padded, int64_t part) const {
    std::vector<int64_t> sizes = {given_.samples(), given_.rows(), given_.shape.in_channels, given_.kernel[0],
                                  (given_.kernel[1] - part + fold_ - 1) / fold_};
    return alias(padded, sizes, strides_of(padded), part * channels() * padded.stride(2));
  }

  const ConvolutionProblem& given_;
  const ConvolutionProblem padded_;
  const int64_t fold_;
};

}  // namespace crossd_ops
