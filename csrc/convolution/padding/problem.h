// Channels that are no whole vectors, in tiles: with zeros behind them, and, where the stride along the width allows
// it, so many neighbouring pixels as the channels of one. With f of them, and a padding of p along the width:
//
//   x'[y, j, (r, c)] = x[y, f j + r - p, c],   w'[o, k, t, (r, c)] = w[o, k, f t + r, c]
//
// and zero where there is no such pixel, tap or channel. Then y = conv(x', w'), with 1 / f of the stride and no padding
// along the width. For three channels of half types, 7x7 and a stride of 2, as a ResNet begins, 224 numbers are
// multiplied for each of the result, where zeros alone would have it 392; the columns have 147.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "convolution/gpu_costs.h"
#include "convolution/problem.h"
#include "convolution/tiles_problem.h"

namespace crossd_ops {

inline int64_t in_whole(int64_t count, int64_t vector) { return (count + vector - 1) / vector * vector; }

// Zeros count up to 64 times: more than what fits as whole numbers may come of sizes that were checked.
inline double elements_of(const std::vector<int64_t>& sizes) {
  double elements = 1;
  for (const int64_t size : sizes) elements *= static_cast<double>(size);
  return elements;
}

// Of one group alone, of images.
inline bool is_padded(const ConvolutionProblem& problem) {
  const int64_t vector = tiles_vector(problem.dtype);
  return problem.kernel.size() == 2 && problem.geometry.groups == 1 &&
         (problem.shape.in_channels % vector != 0 || problem.rows() % vector != 0);
}

// Pixels along the width that become one.
inline int64_t folded_pixels(const ConvolutionProblem& problem) {
  const int64_t vector = tiles_vector(problem.dtype), channels = problem.shape.in_channels;
  const auto& [stride, padding, dilation, _] = problem.geometry;
  if (dilation[1] > 1 || padding[1] > problem.image[1]) return 1;
  int64_t fold = 1;
  while (channels * fold * 2 <= vector && stride[1] % (fold * 2) == 0) fold *= 2;
  return fold;
}

// The problem of the padded tensors.
inline ConvolutionProblem padded_problem(const ConvolutionProblem& problem) {
  const int64_t vector = tiles_vector(problem.dtype), fold = folded_pixels(problem);
  ConvolutionProblem padded = problem;
  padded.shape.in_channels = in_whole(problem.shape.in_channels, vector);
  padded.shape.out_channels = padded.result[1] = in_whole(problem.rows(), vector);
  padded.format = MemoryFormat::channels_last;
  if (fold > 1) {
    padded.kernel[1] = (problem.kernel[1] + fold - 1) / fold;
    padded.geometry.stride[1] /= fold, padded.geometry.padding[1] = 0;
    padded.image[1] = (problem.result[3] - 1) * padded.geometry.stride[1] + padded.kernel[1];
  }
  padded.input_elements = elements_of({padded.samples(), padded.shape.in_channels, padded.image[0], padded.image[1]});
  return padded;
}

// As those of one product; of the backward's two, which have one of the image and one of the kernels, the mean. Zeros
// are written, what is given is read and written among them, and what is read in its place is larger.
inline PaddingCosts padding_costs(const ConvolutionProblem& problem, const ConvolutionProblem& padded, bool backward,
                                  bool need_input) {
  const double image = padded.input_elements, parts = static_cast<double>(folded_pixels(problem));
  const double kernels =
      elements_of({padded.samples(), padded.rows(), padded.shape.in_channels, padded.kernel_elements()});
  const bool of_result = padded.rows() != problem.rows();
  const double result = of_result ? elements_of(padded.result) : 0;
  if (!backward) return {3 * (image + kernels) + 2 * result, 3 + parts + of_result};
  if (!need_input) return {3 * (image + result) + 2 * kernels, 2 + parts + 2 * of_result};
  return {(5 * (image + kernels) + 3 * result) / 2, (4 + 2 * parts + 2 * of_result) / 2};
}

}  // namespace crossd_ops
