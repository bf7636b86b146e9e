// Gradients of the per-sample convolution for input and kernels, some output channels at a time.
//
// Many channels' kernels are more than a cache holds: in blocks, each is still there when its product is taken.
#pragma once
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"

namespace crossd_ops {

class ConvolutionGradients {
 public:
  ConvolutionGradients(const Tensor& input, const ConvolutionProblem& problem, bool need_input, bool need_kernels)
      : input_(input),
        problem_(problem),
        method_(choose(problem, /*backward=*/true)),
        need_input_(need_input),
        need_kernels_(need_kernels) {}

  // The kernels' gradient (B, rows, C, ...), of grad (B, rows, ...) and kernels (B, rows, C, ...) of the next output
  // channels. Empty where nobody needs it; else there until the next call.
  Tensor add(const Tensor& grad, const Tensor& kernels) {
    if (method_ == Method::matrix) return add_matrix(grad, kernels);
    return method_ == Method::loop && problem_.samples() > 1 ? add_samples(grad, kernels) : add_grouped(grad, kernels);
  }

  // After the last block.
  Tensor grad_input() const {
    return method_ == Method::matrix ? columns_to_image(*grad_columns_, input_, problem_) : *grad_input_;
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

  // (B * rows, C, ...) -> (B, rows, C, ...)
  static Tensor split_samples(const Tensor& kernels, int64_t rows) {
    std::vector<int64_t> sizes = sizes_of(kernels), strides = strides_of(kernels);
    sizes[0] /= rows;
    sizes.insert(sizes.begin() + 1, rows), strides.insert(strides.begin(), rows * strides[0]);
    return alias(kernels, sizes, strides);
  }

  Tensor add_samples(const Tensor& grad, const Tensor& kernels) {
    std::vector<Tensor> inputs, grads;
    for (int64_t b = 0; b < problem_.samples(); ++b) {
      const LibraryGradients found =
          library_convolution_backward(part_of(grad, 0, b, 1), part_of(input_, 0, b, 1), kernels_of_sample(kernels, b),
                                       problem_.geometry, problem_.geometry.groups, need_input_, need_kernels_);
      if (need_input_) inputs.push_back(found.input);
      if (need_kernels_) grads.push_back(found.kernels);
    }
    if (need_input_) add_to_grad_input(join_samples(inputs));
    return need_kernels_ ? split_samples(join_samples(grads), kernels.size(1)) : kernels;
  }

  // With columns x (B, C Kh Kw, pixels) of the input, of which y = w x:  g_w = g x^T,  g_x = w^T g.
  Tensor add_matrix(const Tensor& grad, const Tensor& kernels) {
    const int64_t groups = problem_.geometry.groups, blocks = problem_.samples() * groups, pixels = problem_.pixels();
    const int64_t rows = kernels.size(1) / groups, wide = kernels.size(2) * problem_.kernel_elements();
    // Of groups, each product takes some of a sample's channels: samples that lie apart will not do.
    const Tensor source = groups == 1 ? as_matrices(grad) : torch::stable::contiguous(grad);
    const Tensor g = groups == 1 ? source : alias(source, {blocks, rows, pixels}, {rows * pixels, pixels, 1});
    if (need_input_) {
      const Tensor transposed = alias(kernels, {blocks, wide, rows}, {rows * wide, 1, wide});
      const bool first = !grad_columns_;
      if (first) grad_columns_.emplace(new_tensor(input_, sizes_of_columns(problem_), input_.scalar_type()));
      if (first)
        multiply_matrices(*grad_columns_, transposed, g);
      else
        add_matrix_product_on_cpu(*grad_columns_, transposed, g);
    }
    if (!need_kernels_) return kernels;
    if (!columns_) columns_.emplace(image_to_columns(input_, problem_));
    prepare_grad_kernels(kernels);
    Tensor product = alias(*grad_kernels_, {blocks, rows, wide}, {rows * wide, wide, 1});
    multiply_matrices(product, g, alias(*columns_, {blocks, pixels, wide}, {wide * pixels, 1, pixels}));
    return *grad_kernels_;
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
