// Image to columns and back on the CPU. Threads: those of torch; results do not depend on their number.
#pragma once
#include "convolution/columns_problem.h"

namespace crossd_ops::cpu {

// columns: [samples, channels, kernel, result], dense but for rows that may be longer than the result; elements outside
// of the image are zero, those behind the result undefined.
void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns);

// The adjoint: each pixel gets the sum of its copies, added in accumulate_dtype. `image` need not be cleared.
void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image);

}  // namespace crossd_ops::cpu
