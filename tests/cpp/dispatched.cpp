// What GPUs get by torch's dispatcher, as operators of their own: tests/convolution/test_library_calls.py runs
// them on the CPU, where the library takes another way.
#include <torch/csrc/stable/library.h>

#include "common/library_calls.h"
#include "common/tensors.h"

namespace crossd_ops {

using Numbers = std::vector<int64_t>;

Tensor convolution(const Tensor& input, const Tensor& kernels, std::optional<Tensor> bias, Numbers stride,
                   Numbers padding, Numbers dilation, int64_t groups) {
  return dispatched_convolution(input, kernels, bias, {stride, padding, dilation, groups}, groups);
}

// The gradients that are needed.
std::vector<Tensor> convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& kernels, Numbers stride,
                                         Numbers padding, Numbers dilation, int64_t groups, bool need_input,
                                         bool need_kernels) {
  const LibraryGradients found = dispatched_convolution_backward(
      grad, input, kernels, {stride, padding, dilation, groups}, groups, need_input, need_kernels);
  std::vector<Tensor> gradients;
  if (need_input) gradients.push_back(found.input);
  if (need_kernels) gradients.push_back(found.kernels);
  return gradients;
}

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = new_tensor(a, {a.size(0), a.size(1), b.size(2)}, a.scalar_type());
  dispatched_product(out, a, b);
  return out;
}

STABLE_TORCH_LIBRARY(crossd_dispatched, m) {
  m.def(
      "convolution(Tensor input, Tensor kernels, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
      "int groups) -> Tensor");
  m.def(
      "convolution_backward(Tensor grad, Tensor input, Tensor kernels, int[] stride, int[] padding, int[] dilation, "
      "int groups, bool need_input, bool need_kernels) -> Tensor[]");
  m.def("product(Tensor a, Tensor b) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(crossd_dispatched, CPU, m) {
  m.impl("convolution", TORCH_BOX(&convolution));
  m.impl("convolution_backward", TORCH_BOX(&convolution_backward));
  m.impl("product", TORCH_BOX(&product));
}

}  // namespace crossd_ops
