// Image to columns and back on the current CUDA device, in the order of a stream (a cudaStream_t). Asynchronous; a
// launch that fails throws std::runtime_error. Columns begin at 16 bytes, and so do their rows.
#pragma once
#include "convolution/columns_problem.h"

namespace crossd_ops::cuda {

// As of cpu/columns.h. What lies behind the pixels of a row is undefined.
void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns, void* stream);
void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image, void* stream);

}  // namespace crossd_ops::cuda
