// What each pixel of a convolution's result sees of the image, a row for each pixel (im2row), and the way back, on the
// CPU. Threads: those of torch; results do not depend on their number.
#pragma once
#include <cstdint>

#include "convolution/columns_problem.h"

namespace crossd_ops::cpu {

// Of the pixels of all samples, (B, result).
struct Rows {
  int64_t first, count;
};

// out: [rows, channels, kernel], dense; elements outside of the image are zero. The problem's type is float32 or
// float64, and its `row` does not matter.
void image_to_rows(const ColumnsProblem& problem, const Rows& rows, const void* image, void* out);

// The adjoint: each pixel gets the sum of its copies, added to what it is.
void add_rows_to_image(const ColumnsProblem& problem, const Rows& rows, const void* from, void* image);

}  // namespace crossd_ops::cpu
