// Gradients of the per-sample convolution for input and kernels, some output channels at a time.
//
// Many channels' kernels are more than a cache holds: in blocks, each is still there when its product is taken.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/choice.h"
#include "convolution/columns.h"
#include "convolution/methods/loop.h"
#include "convolution/methods/products.h"
#include "convolution/methods/tiles.h"
#include "convolution/padding/tensors.h"
#include "convolution/sample_kernels.h"

namespace crossd_ops {

class ConvolutionGradients {
 public:
  ConvolutionGradients(const Tensor& input, const ConvolutionProblem& problem, Method method, bool need_input,
                       bool need_kernels)
      : input_(input), problem_(problem), method_(method), need_input_(need_input), need_kernels_(need_kernels) {}

  // The kernels' gradient (B, rows, C, ...), of grad (B, rows, ...) and kernels (B, rows, C, ...) of the next output
  // channels, whose values the input's gradient alone asks for. Empty where nobody needs it; else there until the next
  // call.
  Tensor add(const Tensor& grad, const Tensor& kernels) {
    if (method_ == Method::matrix) return add_matrix(grad, kernels);
    if (method_ == Method::tiles) return add_tiles(grad, kernels);
    return method_ == Method::loop && problem_.samples() > 1 ? add_loop(grad, kernels) : add_grouped(grad, kernels);
  }

  // After the last block.
  Tensor grad_input() {
    if (grad_columns_) finish_grad_input(0, problem_.samples());
    return *grad_input_;
  }

 private:
  Tensor add_grouped(const Tensor& grad, const Tensor& kernels) {
    const Geometry& geometry = problem_.geometry;
    const LibraryGradients found =
        library_convolution_backward(stack_samples(grad), stack_samples(input_), stacked_kernels(kernels), geometry,
                                     problem_.samples() * geometry.groups, need_input_, need_kernels_);
    if (need_input_) {
      const Tensor stacked = torch::stable::contiguous(found.input);
      const std::vector<int64_t> sizes = sizes_of(input_);
      add_to_grad_input(alias(stacked, sizes, dense_strides(sizes)));
    }
    return need_kernels_ ? split_samples(found.kernels, kernels.size(1)) : kernels;
  }

  Tensor add_loop(const Tensor& grad, const Tensor& kernels) {
    const LibraryGradients found =
        gradients_of_each_sample(grad, input_, kernels, problem_, need_input_, need_kernels_);
    if (need_input_) add_to_grad_input(found.input);
    return need_kernels_ ? found.kernels : kernels;
  }

  // With columns x (B, C Kh Kw, pixels) of the input, of which y = w x:  g_w = g x^T,  g_x = w^T g. On a GPU, where
  // output channels come all at once, some samples at a time.
  Tensor add_matrix(const Tensor& grad, const Tensor& kernels) {
    const int64_t groups = problem_.geometry.groups, samples = problem_.samples(), chunk = problem_.samples_of_chunk();
    const Tensor w = kernel_matrices(kernels, groups), g = as_matrices(grad, groups);
    if (need_input_ && !grad_input_) grad_input_.emplace(new_tensor(input_, sizes_of(input_), format_of_grad_input()));
    if (need_kernels_) prepare_grad_kernels(kernels);
    for (int64_t first = 0; first < samples; first += chunk) {
      const int64_t count = std::min(chunk, samples - first), block = first * groups, blocks = count * groups;
      const Tensor g_of_chunk = part_of(g, 0, block, blocks);
      if (need_input_) {
        add_grad_columns(first, count, transposed(part_of(w, 0, block, blocks)), g_of_chunk);
        if (problem_.on_gpu) finish_grad_input(first, count);  // so columns of one kind are there at a time
      }
      if (!need_kernels_) continue;
      if (chunk < samples)
        columns_.emplace(image_to_columns(part_of(input_, 0, first, count), problem_));
      else if (!columns_)
        columns_.emplace(image_to_columns(input_, problem_));
      multiply_into(part_of(kernel_matrices(*grad_kernels_, groups), 0, block, blocks), g_of_chunk,
                    transposed(*columns_), problem_);
      if (problem_.on_gpu) columns_.reset();
    }
    return need_kernels_ ? *grad_kernels_ : kernels;
  }

  // As SampleConvolution's; the gradient of the kernels is tap-major too.
  Tensor add_tiles(const Tensor& grad, const Tensor& given) {
    if (is_padded(problem_)) return add_padded_tiles(grad, given);
    const Tensor kernels = in_tap_major_order(given);
    const Tensor whole_grad = in_whole_vectors(grad);
    if (need_input_) {
      grad_input_.emplace(new_tensor(input_, sizes_of(input_), MemoryFormat::channels_last));
      input_gradient_in_tiles(whole_grad, kernels, *grad_input_, problem_);
    }
    if (!need_kernels_) return kernels;
    const std::vector<int64_t> sizes = sizes_of(kernels);
    Tensor grad_kernels = new_strided_tensor(kernels, sizes, tap_major_strides(sizes), kernels.scalar_type());
    kernels_gradient_in_tiles(whole_grad, in_whole_vectors(input_), grad_kernels, problem_);
    return grad_kernels;
  }

  Tensor add_padded_tiles(const Tensor& grad, const Tensor& given) {
    const Padding padding(problem_);
    const Tensor image = padding.image(input_);
    ConvolutionGradients padded(image, padding.problem(), method_, need_input_, need_kernels_);
    const Tensor of_kernels = padded.add_tiles(padding.result_gradient(grad),
                                               need_input_ ? padding.kernels(given) : padding.new_kernels(given));
    if (need_input_) grad_input_.emplace(padding.image_gradient(padded.grad_input()));
    return need_kernels_ ? padding.kernels_gradient(of_kernels) : given;
  }

  // Groups of channels-last images are no matrices.
  MemoryFormat format_of_grad_input() const {
    return problem_.geometry.groups == 1 ? problem_.format : MemoryFormat::contiguous;
  }

  // Of these samples, w^T g of the next output channels.
  void add_grad_columns(int64_t first, int64_t count, const Tensor& w, const Tensor& g) {
    const bool is_first = !grad_columns_;
    if (is_first)
      grad_columns_.emplace(problem_.columns_are_the_image()
                                ? as_matrices(part_of(*grad_input_, 0, first, count), problem_.geometry.groups)
                                : new_columns(input_, problem_, count));
    if (is_first)
      multiply_into(*grad_columns_, w, g, problem_);
    else
      add_product_on_cpu(*grad_columns_, w, g);
  }

  // After the last output channels of these samples.
  void finish_grad_input(int64_t first, int64_t count) {
    Tensor image = part_of(*grad_input_, 0, first, count);
    if (!problem_.columns_are_the_image()) columns_to_image(*grad_columns_, image, problem_);
    grad_columns_.reset();
  }

  // With the sizes of `kernels`, in memory that blocks of one size share.
  void prepare_grad_kernels(const Tensor& kernels) {
    if (!grad_kernels_ || grad_kernels_->size(1) != kernels.size(1))
      grad_kernels_.emplace(new_tensor(kernels, sizes_of(kernels), kernels.scalar_type()));
  }

  void add_to_grad_input(const Tensor& part) {
    if (grad_input_)
      grad_input_.emplace(sum_of(*grad_input_, part));
    else
      grad_input_.emplace(part);
  }

  const Tensor& input_;
  const ConvolutionProblem& problem_;
  Method method_;
  bool need_input_, need_kernels_;
  std::optional<Tensor> columns_, grad_columns_, grad_kernels_, grad_input_;
};

}  // namespace crossd_ops
