// Products of matrices, out = a b, each (n, ., .): the library's, or in tiles. Where torch lets convolutions round
// float32 to TF32 on a GPU and products not, as by default, the library multiplies in full float32, at a tenth of the
// rate. So such products are convolutions of one tap in tiles: a matrix is an image, its rows the pixels and its
// columns the channels, or it is the kernels. One of the three directions reads both as they lie, whatever is
// contiguous:
//
//   rows of a and columns of b     the convolution of the image a with the kernels b^T
//   columns of a and rows of b     the gradient of kernels, of the result's gradient a^T and the image b
//   rows of both                   the gradient of an image, of the result's gradient a and the kernels b
//   columns of both                the smaller one is copied
//
// What is next to each other in memory has to be whole vectors, and the rows of kernels too: else a matrix is copied
// among zeros. The columns of a convolution, which are many, are spared it where their rows alone are no whole vectors.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/methods/tiles.h"
#include "convolution/padding/problem.h"
#include "convolution/problem.h"

namespace crossd_ops {

class TiledProduct {
 public:
  TiledProduct(const Tensor& out, const Tensor& a, const Tensor& b)
      : out_(out), count_(a.size(0)), rows_(a.size(1)), inner_(a.size(2)), columns_(b.size(2)) {}

  // Whether the kernels can count it.
  bool is_possible() const {
    constexpr int64_t kMostElements = 1 << 28;
    const int64_t rows = whole(rows_), inner = whole(inner_), columns = whole(columns_);
    const int64_t tiles = tiles_along(rows, kFewTileRows) * tiles_along(columns, kTileColumns);
    return std::max({rows * inner, inner * columns, rows * columns, count_ * tiles}) <= kMostElements;
  }

  void multiply(const Tensor& a, const Tensor& b) const {
    if (!is_whole(columns_) && is_whole(rows_)) return multiply_transposed(a, b);
    bool rows_of_a = a.stride(2) == 1, rows_of_b = b.stride(2) == 1;
    const bool a_is_smaller = a.numel() <= b.numel();
    if (!rows_of_a && !rows_of_b)
      (a_is_smaller ? rows_of_a : rows_of_b) = true;
    else if (rows_of_b && a_is_smaller && !is_whole(rows_of_a ? inner_ : rows_))
      rows_of_a = !rows_of_a;
    const Tensor of_a = in_rows(rows_of_a ? a : transposed(a)), of_b = in_rows(rows_of_b ? b : transposed(b));
    if (!rows_of_a) return of_columns_and_rows(of_a, of_b);
    rows_of_b ? of_rows(of_a, of_b) : of_rows_and_columns(of_a, of_b);
  }

 private:
  static int64_t whole(int64_t size) { return in_whole(size, tiles_vector(Dtype::float32)); }
  static bool is_whole(int64_t size) { return whole(size) == size; }
  static Tensor in_rows(const Tensor& matrices) { return matrices.stride(2) == 1 ? matrices : dense(matrices); }

  void multiply_transposed(const Tensor& a, const Tensor& b) const {
    const Tensor product = new_tensor(out_, {count_, columns_, rows_}, out_.scalar_type());
    TiledProduct(product, transposed(b), transposed(a)).multiply(transposed(b), transposed(a));
    Tensor out = out_;
    torch::stable::copy_(out, transposed(product));
  }

  void of_rows_and_columns(const Tensor& a, const Tensor& b) const {
    const Tensor result = new_result(rows_);
    Tensor image = as_image(result);
    convolve_in_tiles(as_image(in_vectors(a)), as_kernels(in_vectors(b, /*rows=*/true)), std::nullopt, image,
                      problem(whole(inner_), whole(columns_), rows_));
    copy_from(result);
  }
  void of_columns_and_rows(const Tensor& a, const Tensor& b) const {
    const Tensor result = new_result(whole(rows_));
    Tensor kernels = as_kernels(result);
    kernels_gradient_in_tiles(as_image(in_vectors(a)), as_image(in_vectors(b)), kernels,
                              problem(whole(columns_), whole(rows_), inner_));
    copy_from(result);
  }
  void of_rows(const Tensor& a, const Tensor& b) const {
    const Tensor result = new_result(rows_);
    Tensor image = as_image(result);
    input_gradient_in_tiles(as_image(in_vectors(a)), as_kernels(in_vectors(b, /*rows=*/true)), image,
                            problem(whole(columns_), whole(inner_), rows_));
    copy_from(result);
  }

  // The matrices themselves, or a copy with zeros behind each of their rows, and behind the last one, up to whole
  // vectors. rows: as kernels are read, without gaps.
  Tensor in_vectors(const Tensor& matrices, bool rows = false) const {
    const int64_t vector = tiles_vector(Dtype::float32), height = matrices.size(1), width = matrices.size(2);
    const std::vector<int64_t> sizes = {count_, rows ? whole(height) : height, whole(width)};
    const bool is_whole = sizes[1] == height && sizes[2] == width;
    const bool at_vectors = reinterpret_cast<uintptr_t>(matrices.const_data_ptr()) % 16 == 0 &&
                            matrices.stride(0) % vector == 0 && matrices.stride(1) % vector == 0;
    const bool no_gaps = is_in_format(matrices, dense_strides(sizes));
    constexpr int64_t kMostElements = 1 << 28;
    const bool near = matrices.stride(1) * height <= kMostElements;
    if (is_whole && (rows ? no_gaps && at_vectors : at_vectors && near)) return matrices;
    const Tensor copy =
        is_whole ? new_tensor(matrices, sizes, matrices.scalar_type()) : torch::stable::new_zeros(matrices, sizes);
    Tensor given = alias(copy, sizes_of(matrices), dense_strides(sizes));
    torch::stable::copy_(given, matrices);
    return copy;
  }

  // `out` itself, or memory for what is copied to it.
  Tensor new_result(int64_t rows) const {
    const std::vector<int64_t> sizes = {count_, rows, whole(columns_)};
    const bool fits = rows == rows_ && sizes[2] == columns_ && is_in_format(out_, dense_strides(sizes)) &&
                      reinterpret_cast<uintptr_t>(out_.const_data_ptr()) % 16 == 0;
    return fits ? out_ : new_tensor(out_, sizes, out_.scalar_type());
  }
  void copy_from(const Tensor& result) const {
    if (result.const_data_ptr() == out_.const_data_ptr()) return;
    Tensor out = out_;
    torch::stable::copy_(out, alias(result, sizes_of(out_), strides_of(result)));
  }

  static Tensor as_image(const Tensor& matrices) {
    const int64_t row = matrices.stride(1), height = matrices.size(1);
    return alias(matrices, {matrices.size(0), matrices.size(2), 1, height}, {matrices.stride(0), 1, height * row, row});
  }
  static Tensor as_kernels(const Tensor& matrices) {
    const std::vector<int64_t> sizes = {matrices.size(0), matrices.size(1), matrices.size(2), 1, 1};
    return alias(matrices, sizes, tap_major_strides(sizes));
  }

  ConvolutionProblem problem(int64_t in_channels, int64_t out_channels, int64_t pixels) const {
    ConvolutionProblem problem{};
    problem.shape.samples = count_, problem.shape.out_channels = out_channels, problem.shape.in_channels = in_channels;
    problem.geometry = {{1, 1}, {0, 0}, {1, 1}, 1};
    problem.kernel = {1, 1}, problem.image = {1, pixels}, problem.result = {count_, out_channels, 1, pixels};
    problem.dtype = Dtype::float32, problem.format = MemoryFormat::channels_last;
    problem.on_gpu = problem.tf32 = true;
    return problem;
  }

  const Tensor& out_;
  int64_t count_, rows_, inner_, columns_;
};

// As multiply_into of columns.h, of the columns of a problem.
inline void multiply_into(const Tensor& out, const Tensor& a, const Tensor& b, const ConvolutionProblem& problem) {
  if (out.stride(2) != 1) return multiply_into(transposed(out), transposed(b), transposed(a), problem);
  const TiledProduct tiled(out, a, b);
  problem.on_gpu&& problem.tf32&& tiled.is_possible() ? tiled.multiply(a, b) : multiply_into(out, a, b);
}

}  // namespace crossd_ops
