// Uses crossd_ops from C++ and compares with what the Python reference wrote: values, first and second derivatives of
// every function, the losses of a small layer in training; and checks what is refused.
#include <crossd_ops/crossd_ops.h>

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/optim/sgd.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;
using crossd_ops::Rotation;

// What Python's torch.save wrote: tensors by name.
struct Cases {
  c10::impl::GenericDict values;

  explicit Cases(const char* path) : values(read(path)) {}
  static c10::impl::GenericDict read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    TORCH_CHECK(file, path, ": expected a file of cases");
    return torch::jit::pickle_load({std::istreambuf_iterator<char>(file), {}}).toGenericDict();
  }
  bool has(const std::string& name) const { return values.contains(name); }
  Tensor at(const std::string& name) const { return values.at(name).toTensor(); }
  Tensors list(const std::string& name) const {
    Tensors result;
    for (int i = 0; has(name + std::to_string(i)); ++i) result.push_back(at(name + std::to_string(i)));
    return result;
  }
};

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

void expect_close(const std::string& what, const Tensor& got, const Tensor& expected) {
  if (!got.defined() || got.scalar_type() != expected.scalar_type() || got.sizes() != expected.sizes())
    return expect(false, what + ": undefined, or of another type or shape");
  const bool is_half = got.element_size() == 2;
  const double tolerance = got.scalar_type() == at::kDouble ? 1e-9 : is_half ? 2e-2 : 1e-4;
  expect(at::allclose(got.to(at::kDouble), expected.to(at::kDouble), tolerance, tolerance), what + ": other numbers");
}

// The functions as the cases call them; tests/common/cpp_cases.py has the same in Python's reference.
const std::map<std::string, std::function<Tensor(const Tensors&)>> functions = {
    {"rotation_shift", [](const Tensors& x) { return crossd_ops::rotation_shift(x[0], x[1]); }},
    {"rotation_shift_exact", [](const Tensors& x) { return crossd_ops::rotation_shift(x[0], x[1], Rotation::exact); }},
    {"rotation_head", [](const Tensors& x) { return crossd_ops::rotation_head(x[0]); }},
    {"rotation_head_exact", [](const Tensors& x) { return crossd_ops::rotation_head(x[0], Rotation::exact); }},
    {"fourier_shift", [](const Tensors& x) { return crossd_ops::fourier_shift(x[0], x[1]); }},
    {"fourier_shift_slice", [](const Tensors& x) { return crossd_ops::fourier_shift_slice(x[0], x[1]); }},
    {"fourier_shift_last", [](const Tensors& x) { return crossd_ops::fourier_shift_slice(x[0], x[1], -1, -1); }},
    {"crossd_conv2d", [](const Tensors& x) { return crossd_ops::crossd_conv2d(x[0], x[1], x[2], Tensor()); }},
    {"crossd_conv2d_options",
     [](const Tensors& x) {
       return crossd_ops::crossd_conv2d(
           x[0], x[1], x[2], x[3],
           {.stride = {1, 2}, .padding = {0, 1}, .dilation = {2, 1}, .groups = 2, .dim = 1, .index = 0});
     }},
    {"crossd_conv2d_same",
     [](const Tensors& x) { return crossd_ops::crossd_conv2d(x[0], x[1], x[2], x[3], {.padding = torch::kSame}); }},
    {"crossd_conv3d",
     [](const Tensors& x) { return crossd_ops::crossd_conv3d(x[0], x[1], x[2], x[3], {.stride = 2, .padding = 1}); }},
    {"sample_conv2d", [](const Tensors& x) { return crossd_ops::sample_conv2d(x[0], x[1]); }},
    {"sample_conv2d_options",
     [](const Tensors& x) {
       return crossd_ops::sample_conv2d(x[0], x[1], x[2],
                                        {.stride = {1, 2}, .padding = {0, 1}, .dilation = {2, 1}, .groups = 2});
     }},
    {"sample_conv2d_same",
     [](const Tensors& x) { return crossd_ops::sample_conv2d(x[0], x[1], x[2], {.padding = torch::kSame}); }},
    {"sample_conv3d",
     [](const Tensors& x) { return crossd_ops::sample_conv3d(x[0], x[1], x[2], {.stride = 2, .padding = 1}); }},
};

// A case NAME:VARIANT/input0, ... with a probe p: values, gradients of < p, f >, and, where there are directions d, the
// second derivatives: gradients of sum_i < d_i, gradient_i >.
void run_case(const Cases& cases, const std::string& name) {
  const auto function = functions.find(name.substr(0, name.find(':')));
  if (function == functions.end()) return expect(false, name + ": unknown function");
  Tensors inputs = cases.list(name + "/input");
  for (Tensor& input : inputs) input.requires_grad_();
  const Tensor output = function->second(inputs);
  expect_close(name + "/output", output, cases.at(name + "/output"));
  const Tensors directions = cases.list(name + "/direction");
  const Tensors gradients =
      torch::autograd::grad({(output * cases.at(name + "/probe")).sum()}, inputs, {}, std::nullopt,
                            /*create_graph=*/!directions.empty());
  Tensor total = at::zeros({}, at::kDouble);
  for (size_t i = 0; i < inputs.size(); ++i) {
    expect_close(name + "/gradient" + std::to_string(i), gradients[i],
                 cases.at(name + "/gradient" + std::to_string(i)));
    if (!directions.empty()) total = total + (gradients[i] * directions[i]).sum();
  }
  if (directions.empty()) return;
  const Tensors seconds = torch::autograd::grad({total}, inputs, {}, std::nullopt, false, /*allow_unused=*/true);
  for (size_t i = 0; i < inputs.size(); ++i)
    expect_close(name + "/second" + std::to_string(i), seconds[i].defined() ? seconds[i] : at::zeros_like(inputs[i]),
                 cases.at(name + "/second" + std::to_string(i)));
}

// A layer: a head of two convolutions predicts the shift of each sample.
Tensor layer(const Tensor& input, const Tensors& parameters) {
  const Tensor map = at::conv2d(at::conv2d(input, parameters[0]).relu(), parameters[1]);
  return crossd_ops::crossd_conv2d(input, parameters[2], crossd_ops::rotation_head(map), parameters[3], {.padding = 1});
}

void train(const Cases& cases) {
  Tensors parameters = cases.list("train/parameter");
  for (Tensor& parameter : parameters) parameter.requires_grad_();
  const Tensor input = cases.at("train/input"), target = cases.at("train/target"), losses = cases.at("train/losses");
  torch::optim::SGD optimizer(parameters, torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int64_t step = 0; step < losses.size(0); ++step) {
    optimizer.zero_grad();
    const Tensor loss = at::mse_loss(layer(input, parameters), target);
    loss.backward();
    optimizer.step();
    expect_close("loss of step " + std::to_string(step), loss.detach(), losses[step]);
  }
  expect((losses[-1] < 0.5 * losses[0]).item<bool>(), "training halves the loss");
  for (size_t i = 0; i < parameters.size(); ++i)
    expect_close("trained parameter " + std::to_string(i), parameters[i].detach(),
                 cases.at("train/trained" + std::to_string(i)));
}

template <typename Error>
void expect_error(const std::string& text, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return expect(std::string(error.what_without_backtrace()).find(text) != std::string::npos,
                  "expected \"" + text + "\", got \"" + error.what_without_backtrace() + "\"");
  } catch (const std::exception& error) {
    return expect(false, "expected \"" + text + "\", got another error: " + error.what());
  }
  expect(false, "expected \"" + text + "\", got no error");
}

void refuse() {
  using namespace crossd_ops;
  const Tensor weight = at::ones({2, 4, 3, 3, 3}), shift = at::ones({2, 3}), input = at::ones({2, 4, 5, 5});
  const Tensor none;
  expect_error<c10::ValueError>("shift: expected (B, 3), got (3,)", [&] { fourier_shift(weight, shift[0].clone()); });
  expect_error<c10::ValueError>("weight: expected kernel sizes from 1 to 15, got (1, 1, 16, 1, 1)",
                                [&] { fourier_shift(at::ones({1, 1, 16, 1, 1}), shift); });
  expect_error<c10::TypeError>("weight: expected a Tensor, got an undefined one", [&] { fourier_shift(none, shift); });
  expect_error<c10::TypeError>("weight: expected a dtype of float64, float32, bfloat16 or float16, got Int",
                               [&] { fourier_shift(weight.to(at::kInt), shift); });
  expect_error<c10::TypeError>("weight: expected a tensor with strides, got another layout",
                               [&] { fourier_shift(weight.to_sparse(), shift); });
  expect_error<c10::TypeError>("dtype: expected float64", [&] { fourier_shift(weight, shift, at::kLong); });
  expect_error<c10::ValueError>("index: expected -3 to 2, got 3", [&] { fourier_shift_slice(weight, shift, 0, 3); });
  expect_error<c10::ValueError>("dim: expected -3 to 2, got 3", [&] { fourier_shift_slice(weight, shift, 3); });
  expect_error<c10::ValueError>("shift: expected the device of weight (cpu), got meta",
                                [&] { fourier_shift(weight, shift.to(at::kMeta)); });
  expect_error<c10::ValueError>("angle: expected (2,) or (2, 1), got (3,)", [&] { rotation_shift(shift, shift[0]); });
  expect_error<c10::ValueError>("map: expected at least one pixel", [&] { rotation_head(at::ones({1, 4, 0, 2})); });
  expect_error<c10::ValueError>("input: expected 4 channels, got (2, 3, 5, 5)",
                                [&] { crossd_conv2d(at::ones({2, 3, 5, 5}), weight, shift); });
  expect_error<c10::ValueError>("shift: expected (3, 3), got (2, 3)",
                                [&] { crossd_conv2d(at::ones({3, 4, 5, 5}), weight, shift); });
  expect_error<c10::ValueError>("bias: expected (2,), got (3,)",
                                [&] { crossd_conv2d(input, weight, shift, at::ones({3})); });
  expect_error<c10::TypeError>("input: expected the dtype of weight (Float), got Double",
                               [&] { crossd_conv2d(input.to(at::kDouble), weight, shift); });
  expect_error<c10::ValueError>("stride: expected one int or 2, each at least 1, got (0, 0)",
                                [&] { crossd_conv2d(input, weight, shift, {}, {.stride = 0}); });
  expect_error<c10::ValueError>("padding: expected numbers, 'valid', or 'same' (stride 1), got 'same'", [&] {
    crossd_conv2d(input, weight, shift, {}, {.stride = 2, .padding = torch::kSame});
  });
}

void refuse_of_samples() {
  using namespace crossd_ops;
  const Tensor weight = at::ones({2, 6, 4, 3, 3}), input = at::ones({2, 4, 5, 5}), none;
  expect_error<c10::TypeError>("weight: expected a Tensor, got an undefined one", [&] { sample_conv2d(input, none); });
  expect_error<c10::ValueError>("weight: expected (B, O, C, Kh, Kw), got (6, 4, 3, 3)",
                                [&] { sample_conv2d(input, weight[0]); });
  expect_error<c10::ValueError>("weight: expected (B, O, C, Kd, Kh, Kw), got (2, 6, 4, 3, 3)",
                                [&] { sample_conv3d(input, weight); });
  expect_error<c10::ValueError>("weight: expected kernel sizes of at least 1, got (2, 6, 4, 0, 3)",
                                [&] { sample_conv2d(input, at::ones({2, 6, 4, 0, 3})); });
  expect_error<c10::ValueError>("weight: expected (3, O, C, Kh, Kw), got (2, 6, 4, 3, 3)",
                                [&] { sample_conv2d(at::ones({3, 4, 5, 5}), weight); });
  expect_error<c10::ValueError>("input: expected 8 channels, got (2, 4, 5, 5)",
                                [&] { sample_conv2d(input, weight, {}, {.groups = 2}); });
  expect_error<c10::ValueError>("input: expected at least 3 pixels along each axis with padding, got (2, 4, 5, 2)",
                                [&] { sample_conv2d(at::ones({2, 4, 5, 2}), weight); });
  expect_error<c10::ValueError>("bias: expected (6,), got (3,)", [&] { sample_conv2d(input, weight, at::ones({3})); });
  expect_error<c10::TypeError>("input: expected the dtype of weight (Float), got Double",
                               [&] { sample_conv2d(input.to(at::kDouble), weight); });
}

// Without the operators' derivatives these would be zero, and nothing would tell.
void refuse_forward_mode() {
  const uint64_t level = torch::autograd::ForwardADLevel::get_next_idx();
  const Tensor weight = at::_make_dual(at::ones({2, 4, 3, 3, 3}), at::ones({2, 4, 3, 3, 3}), level);
  const std::string text = "jvp is not implemented for the c++ API";
  expect_error<c10::Error>(text, [&] { crossd_ops::fourier_shift(weight, at::ones({2, 3})); });
  expect_error<c10::Error>(text, [&] { crossd_ops::crossd_conv2d(at::ones({2, 4, 5, 5}), weight, at::ones({2, 3})); });
  const Tensor kernels = at::_make_dual(at::ones({2, 6, 4, 3, 3}), at::ones({2, 6, 4, 3, 3}), level);
  expect_error<c10::Error>(text, [&] { crossd_ops::sample_conv2d(at::ones({2, 4, 5, 5}), kernels); });
  torch::autograd::ForwardADLevel::release_idx(level);
}

void autocast() {
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor weight = at::rand({2, 4, 3, 3, 3}), shift = at::rand({2, 3}), input = at::rand({2, 4, 5, 5});
  expect(crossd_ops::fourier_shift(weight, shift).scalar_type() == at::kBFloat16, "autocast of the kernels");
  expect(crossd_ops::fourier_shift(weight.to(at::kDouble), shift).scalar_type() == at::kDouble, "autocast of float64");
  expect(crossd_ops::crossd_conv2d(input, weight, shift).scalar_type() == at::kBFloat16, "autocast of the layer");
  expect(crossd_ops::sample_conv2d(input, at::rand({2, 6, 4, 3, 3})).scalar_type() == at::kBFloat16,
         "autocast of given kernels");
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
}

}  // namespace

// 0 where everything holds; what does not is printed.
extern "C" int run_consumer(const char* path) {
  try {
    const Cases cases(path);
    int count = 0;
    for (const auto& entry : cases.values) {
      const std::string key = entry.key().toStringRef();
      const size_t end = key.rfind("/output");
      if (end == std::string::npos) continue;
      run_case(cases, key.substr(0, end));
      ++count;
    }
    train(cases);
    refuse();
    refuse_of_samples();
    refuse_forward_mode();
    autocast();
    crossd_ops::detail::tell_tf32(/*convolutions=*/true, /*products=*/false);  // as calls on a GPU do first
    std::printf("%d cases, %d failures\n", count, failures);
  } catch (const std::exception& error) {
    std::printf("ERROR: %s\n", error.what());
    return 1;
  }
  std::fflush(stdout);
  return failures != 0;
}
