// From a map of scores, or an axis and an angle, to the shift (arXiv 2411.02441).
#pragma once
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "checks.h"
#include "operators.h"

namespace crossd_ops::detail {

enum class Rotation { linear, exact };

// s = R^T 1. linear: 1 - t (k x 1); exact: 1 - sin t (k x 1) + (1 - cos t) k x (k x 1).
inline at::Tensor rotation_shift(const at::Tensor& axis, const at::Tensor& angle, Rotation rotation) {
  const at::ScalarType dtype =
      at::promote_types(at::promote_types(axis.scalar_type(), angle.scalar_type()), at::kFloat);
  const at::Tensor k = axis.to(dtype), t = angle.to(dtype).reshape({-1, 1});
  const at::Tensor cross_one = k.roll(-1, -1) - k.roll(1, -1);
  if (rotation == Rotation::linear) return 1 - t * cross_one;
  const at::Tensor cross_twice = k.roll(-1, -1) * cross_one.roll(1, -1) - k.roll(1, -1) * cross_one.roll(-1, -1);
  // 1 - cos t as 2 sin^2(t/2): no cancellation at the small angles that heads predict.
  return 1 - t.sin() * cross_one + 2 * (t / 2).sin().square() * cross_twice;
}

// rotation_head of torch's own operations, which have every derivative.
inline at::Tensor composite_head(const at::Tensor& map, Rotation rotation) {
  constexpr double kNormEpsilon = 1e-8, kLargestAngle = 3.14159265358979323846 / 4;
  const at::Tensor scores = map.flatten(2).to(accumulate_dtype(map.scalar_type()));
  const at::Tensor v = (scores.softmax(-1) * scores).sum(-1);
  const at::Tensor direction = v.slice(1, 0, 3);
  const at::Tensor norm = at::linalg_vector_norm(direction, 2, at::IntArrayRef{1}, /*keepdim=*/true);
  return rotation_shift(direction / (norm + kNormEpsilon), v.select(1, 3).tanh() * kLargestAngle, rotation);
}

struct RotationHead : torch::autograd::Function<RotationHead> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& map, Rotation rotation) {
    const auto [shift, statistics] = head_operator(map, rotation == Rotation::exact);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({map, statistics});
    ctx->saved_data["exact"] = rotation == Rotation::exact;
    return shift;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor()};
    const torch::autograd::variable_list saved = ctx->get_saved_variables();
    const bool exact = ctx->saved_data["exact"].toBool();
    if (!at::GradMode::is_enabled()) return {head_backward_operator(grads[0], saved[0], saved[1], exact), at::Tensor()};
    // This gradient will be differentiated (create_graph): its graph is that of the composite's gradient.
    const at::Tensor shift = composite_head(saved[0], exact ? Rotation::exact : Rotation::linear);
    return {torch::autograd::grad({shift}, {saved[0]}, {grads[0]}, std::nullopt, /*create_graph=*/true)[0],
            at::Tensor()};
  }
};

}  // namespace crossd_ops::detail
