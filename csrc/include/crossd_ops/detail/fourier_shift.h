// Derivatives of the shift, of every order, around operators that have none; derived in crossd_ops/operators/shift.py.
//
//   forward    F(W, s)    = M(s) W                                     Shift
//   backward   V(g, W, s) = ( M(s)^T g,  < g, dM(s)/ds_d W > )         ShiftBackward
//
// Each is the other's derivative: those of V are made of F and V at moved shifts, of weights that a circulant matrix C
// was applied to along one axis (see spectral.h):
//
//   J(W, s, h) = sum_d h_d dM(s)/ds_d W = sum_d h_d sum_(C, u of axis d) M(s + u) C W
#pragma once
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "checks.h"
#include "operators.h"
#include "spectral.h"

namespace crossd_ops::detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Gradients; one that is not needed is undefined.
struct ShiftGradients {
  at::Tensor weight, shift;
};

inline at::Tensor shift_forward(const at::Tensor& weight, const at::Tensor& shift, const Place& place,
                                at::ScalarType dtype);
inline ShiftGradients shift_backward(const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& shift,
                                     const Place& place, bool need_weight, bool need_shift);

inline void save_place(AutogradContext* ctx, const Place& place) {
  ctx->saved_data["dim"] = place.dim;
  ctx->saved_data["index"] = place.index;
}
inline Place saved_place(AutogradContext* ctx) {
  return {ctx->saved_data["dim"].toInt(), ctx->saved_data["index"].toOptional<int64_t>()};
}

inline at::Tensor plus(const at::Tensor& total, const at::Tensor& term) {
  if (!total.defined() || !term.defined()) return total.defined() ? total : term;
  return total + term;
}
inline at::Tensor converted(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() ? tensor.to(dtype) : tensor;
}

// h_d of each sample, to be multiplied with a tensor like `like`.
inline at::Tensor per_sample(const at::Tensor& h_shift, int64_t axis, const at::Tensor& like) {
  std::vector<int64_t> sizes(like.dim(), 1);
  sizes[0] = h_shift.size(0);
  return h_shift.select(1, axis).reshape(sizes);
}

// J(W, s, h), in the type of accumulation.
inline at::Tensor jacobian(at::Tensor weight, const at::Tensor& shift, const at::Tensor& h_shift, const Place& place) {
  weight = weight.to(accumulate_dtype(weight.scalar_type()));
  at::Tensor total;
  for (int64_t axis = 0; axis < 3; ++axis)
    for (const auto& [taps, offset] : derivative_terms(weight.size(2 + axis))) {
      const at::Tensor term =
          shift_forward(circulant(weight, taps, 2 + axis), moved(shift, axis, offset), place, weight.scalar_type());
      total = plus(total, per_sample(h_shift, axis, term) * term);
    }
  return total;
}

// Gradients of < g, J(W, s, h) > in W and s: those of < h_d g, M(s') C W > for each circulant C of J.
inline ShiftGradients jacobian_adjoint(const at::Tensor& grad, at::Tensor weight, const at::Tensor& shift,
                                       const at::Tensor& h_shift, const Place& place, bool need_weight,
                                       bool need_shift) {
  weight = weight.to(accumulate_dtype(weight.scalar_type()));
  ShiftGradients total;
  for (int64_t axis = 0; axis < 3; ++axis) {
    const at::Tensor scaled = per_sample(h_shift, axis, grad) * grad;
    for (const auto& [taps, offset] : derivative_terms(weight.size(2 + axis))) {
      const ShiftGradients term = shift_backward(scaled, circulant(weight, taps, 2 + axis), moved(shift, axis, offset),
                                                 place, need_weight, need_shift);
      if (need_weight) total.weight = plus(total.weight, circulant(term.weight, transposed(taps), 2 + axis));
      total.shift = plus(total.shift, term.shift);
    }
  }
  return total;
}

struct Shift : torch::autograd::Function<Shift> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight, const at::Tensor& shift, const Place& place,
                            at::ScalarType dtype) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({weight, shift});
    save_place(ctx, place);
    return shift_operator(weight, shift, place, dtype);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(4);
    const variable_list saved = ctx->get_saved_variables();
    const ShiftGradients result = shift_backward(grads[0], saved[0], saved[1], saved_place(ctx),
                                                 ctx->needs_input_grad(0), ctx->needs_input_grad(1));
    return {result.weight, result.shift, at::Tensor(), at::Tensor()};
  }
};

struct ShiftBackward : torch::autograd::Function<ShiftBackward> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& weight,
                               const at::Tensor& shift, const Place& place, bool need_weight, bool need_shift) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({grad, weight, shift});
    save_place(ctx, place);
    ctx->saved_data["need_weight"] = need_weight;
    ctx->saved_data["need_shift"] = need_shift;
    const auto [of_weight, of_shift] = shift_backward_operator(grad, weight, shift, place, need_weight, need_shift);
    return {of_weight, of_shift};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& h) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &grad = saved[0], &weight = saved[1], &shift = saved[2];
    const Place place = saved_place(ctx);
    const bool need_grad = ctx->needs_input_grad(0), need_weight = ctx->needs_input_grad(1);
    const bool need_shift = ctx->needs_input_grad(2);
    at::Tensor of_grad;
    ShiftGradients total;
    if (h[0].defined() && ctx->saved_data["need_weight"].toBool()) {
      if (need_grad) of_grad = shift_forward(h[0], shift, place, accumulate_dtype(weight.scalar_type()));
      if (need_shift) total.shift = shift_backward(grad, h[0], shift, place, false, true).shift;
    }
    if (h[1].defined() && ctx->saved_data["need_shift"].toBool()) {
      if (need_grad) of_grad = plus(of_grad, jacobian(weight, shift, h[1], place));
      if (need_weight || need_shift) {
        const ShiftGradients second = jacobian_adjoint(grad, weight, shift, h[1], place, need_weight, need_shift);
        total.weight = second.weight, total.shift = plus(total.shift, second.shift);
      }
    }
    return {converted(of_grad, grad.scalar_type()),
            converted(total.weight, weight.scalar_type()),
            total.shift,
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

// F(W, s), differentiable; shift of the accumulate type. Always through the Function, even where nothing needs a
// gradient: it is what refuses forward-mode derivatives, which the operator alone would make zero.
inline at::Tensor shift_forward(const at::Tensor& weight, const at::Tensor& shift, const Place& place,
                                at::ScalarType dtype) {
  return Shift::apply(weight, shift, place, dtype);
}

// V(g, W, s), differentiable.
inline ShiftGradients shift_backward(const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& shift,
                                     const Place& place, bool need_weight, bool need_shift) {
  const variable_list grads = ShiftBackward::apply(grad, weight, shift, place, need_weight, need_shift);
  return {need_weight ? grads[0] : at::Tensor(), need_shift ? grads[1] : at::Tensor()};
}

// The type that autocast wants of kernels made of `weight`; none where it is off, or leaves float64 alone.
inline std::optional<at::ScalarType> autocast_dtype(const at::Tensor& weight) {
  const at::DeviceType device = weight.device().type();
  // Autocast does not know meta tensors, and raises.
  if (weight.scalar_type() == at::kDouble || device == at::kMeta || !at::autocast::is_autocast_enabled(device))
    return std::nullopt;
  return at::autocast::get_autocast_dtype(device);
}

// F(W, s) of checked arguments.
inline at::Tensor fourier_shift(const at::Tensor& weight, const at::Tensor& shift, const Place& place,
                                std::optional<at::ScalarType> dtype) {
  if (!dtype) dtype = autocast_dtype(weight);
  const at::Tensor compute_shift = shift.to(accumulate_dtype(weight.scalar_type()));
  return shift_forward(weight, compute_shift, place, dtype.value_or(weight.scalar_type()));
}

}  // namespace crossd_ops::detail
