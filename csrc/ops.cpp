// The operators that torch's dispatcher sees, as a table of contents: all schemas, then the implementations of each
// device. Only the LibTorch stable ABI is used, so one binary serves every torch from 2.11 on. Python registers what
// the stable ABI lacks: shapes for tracing, autograd, autocast.
#include <torch/csrc/stable/library.h>

#include "common/errors.h"
#include "convolution/explain.h"
#include "convolution/op.h"
#include "convolution/sample_op.h"
#include "head/op.h"
#include "head/rotation_op.h"
#include "shift/op.h"

#define CROSSD_BOX(...) TORCH_BOX((&InWordsOfTorch<&__VA_ARGS__>::call))

namespace crossd_ops {

STABLE_TORCH_LIBRARY(crossd_ops, m) {
  m.def("fourier_shift(Tensor weight, Tensor shift, int dim, int? index, ScalarType dtype) -> Tensor");
  m.def(
      "fourier_shift_backward(Tensor grad, Tensor weight, Tensor shift, int dim, int? index, bool need_weight, "
      "bool need_shift) -> (Tensor, Tensor)");
  // place: see checked_place (convolution/problem.h)
  m.def("convolution(Tensor input, Tensor weight, Tensor shift, Tensor? bias, int[] place) -> Tensor");
  m.def(
      "convolution_backward(Tensor grad, Tensor input, Tensor weight, Tensor shift, int[] place, bool need_input, "
      "bool need_weight, bool need_shift) -> (Tensor, Tensor, Tensor)");
  m.def(
      "explain_convolution(Tensor input, Tensor weight, Tensor? shift, int[] place, bool backward, bool on_gpu, "
      "bool need_input=True) -> str");
  m.def("set_convolution_method(int[] key, str? method) -> ()");
  m.def("allow_tf32(bool convolutions, bool products) -> ()");
  m.def("sample_convolution(Tensor input, Tensor weight, Tensor? bias, int[] place) -> Tensor");
  m.def(
      "sample_convolution_backward(Tensor grad, Tensor input, Tensor weight, int[] place, bool need_input, "
      "bool need_weight) -> (Tensor, Tensor)");
  m.def("rotation_head(Tensor map, bool exact) -> (Tensor shift, Tensor statistics)");
  m.def("rotation_head_backward(Tensor grad_shift, Tensor map, Tensor statistics, bool exact) -> Tensor");
  m.def(
      "predict_shift(Tensor input, Tensor weight1, Tensor bias1, Tensor gain, Tensor offset, Tensor? mean, "
      "Tensor? variance, float epsilon, Tensor weight2, Tensor bias2, bool exact, Tensor(a!)? running_mean=None, "
      "Tensor(b!)? running_variance=None, Tensor(c!)? batches=None, float? momentum=None) -> (Tensor shift, "
      "Tensor statistics, Tensor mean, Tensor variance)");
  m.def(
      "predict_shift_backward(Tensor grad_shift, Tensor input, Tensor weight1, Tensor bias1, Tensor gain, "
      "Tensor offset, Tensor mean, Tensor variance, bool training, float epsilon, Tensor weight2, Tensor bias2, "
      "Tensor statistics, bool exact, bool need_input, bool need_parameters, Tensor? grad_beside=None) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(crossd_ops, CompositeExplicitAutograd, m) {
  m.impl("explain_convolution", CROSSD_BOX(explain_convolution));
  m.impl("set_convolution_method", CROSSD_BOX(set_convolution_method));
  m.impl("allow_tf32", CROSSD_BOX(allow_tf32));
}

STABLE_TORCH_LIBRARY_IMPL(crossd_ops, CPU, m) {
  m.impl("fourier_shift", CROSSD_BOX(fourier_shift<FourierShiftCpu>));
  m.impl("fourier_shift_backward", CROSSD_BOX(fourier_shift_backward<FourierShiftCpu>));
  m.impl("convolution", CROSSD_BOX(convolution<FourierShiftCpu>));
  m.impl("convolution_backward", CROSSD_BOX(convolution_backward<FourierShiftCpu>));
  m.impl("sample_convolution", CROSSD_BOX(sample_convolution));
  m.impl("sample_convolution_backward", CROSSD_BOX(sample_convolution_backward));
  m.impl("rotation_head", CROSSD_BOX(rotation_head<RotationHeadCpu>));
  m.impl("rotation_head_backward", CROSSD_BOX(rotation_head_backward<RotationHeadCpu>));
  m.impl("predict_shift", CROSSD_BOX(predict_shift<HeadCpu>));
  m.impl("predict_shift_backward", CROSSD_BOX(predict_shift_backward<HeadCpu>));
}

#if defined(CROSSD_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(crossd_ops, CUDA, m) {
  m.impl("fourier_shift", CROSSD_BOX(fourier_shift<FourierShiftCuda>));
  m.impl("fourier_shift_backward", CROSSD_BOX(fourier_shift_backward<FourierShiftCuda>));
  m.impl("convolution", CROSSD_BOX(convolution<FourierShiftCuda>));
  m.impl("convolution_backward", CROSSD_BOX(convolution_backward<FourierShiftCuda>));
  m.impl("sample_convolution", CROSSD_BOX(sample_convolution));
  m.impl("sample_convolution_backward", CROSSD_BOX(sample_convolution_backward));
  m.impl("rotation_head", CROSSD_BOX(rotation_head<RotationHeadCuda>));
  m.impl("rotation_head_backward", CROSSD_BOX(rotation_head_backward<RotationHeadCuda>));
  m.impl("predict_shift", CROSSD_BOX(predict_shift<HeadCuda>));
  m.impl("predict_shift_backward", CROSSD_BOX(predict_shift_backward<HeadCuda>));
}
#endif

}  // namespace crossd_ops
