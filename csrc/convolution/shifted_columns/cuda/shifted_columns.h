// The shifted columns, and their gradients, on the current CUDA device, in the order of a stream (a cudaStream_t).
// Asynchronous; a launch that fails, and a problem without has_shifted_columns, throw. Of a half type threads have
// two or four channels each where groups have so many, and all tensors begin, and pixels lie, at them: else one.
#pragma once
#include "convolution/shifted_columns/problem.h"

namespace crossd_ops::cuda {

// columns: [rows, groups, elements of the weight, channels of a group], contiguous, of the image's type.
void image_to_shifted_columns(const ShiftedColumnsProblem& problem, const void* image, const void* shift, void* columns,
                              void* stream);

// From the columns' gradient: `seen`, that of what each pixel sees, [rows, elements of a kernel, channels], of the
// image's type; and `partial`, [shifted_columns_partials(problem), B, 3], whose sum over the first axis is the shift's
// gradient, of the image that is given then. Null: not wanted. All of `partial` is written, zeros for other rows.
void shifted_columns_gradient(const ShiftedColumnsProblem& problem, const void* grad_columns, const void* image,
                              const void* shift, void* seen, void* partial, void* stream);

// The image's gradient from `seen`, in the order of the kernel's elements; `image` has the problem's strides.
void seen_to_image(const ShiftedColumnsProblem& problem, const void* seen, void* image, void* stream);

}  // namespace crossd_ops::cuda
