// The whole head in float64 by the equations of head/problem.h, for cuda_head_check.cpp: cases, their tensors, and what
// is expected of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "head/problem.h"
#include "head/rotation_math.h"
#include "strided.h"

namespace check {

using namespace crossd_ops;

constexpr double kEpsilon = 1e-5, kMomentum = 0.25, kTolerance = 2e-5;

struct Case {
  int64_t samples, channels, height, width;
  Dtype dtype;
  Layout layout;
  bool training = true, exact = false, half_parameters = false, beside = false;
  bool need_input = true, need_parameters = true;
  double input_mean = 0;

  bool tracks() const { return training && samples * height * width > 1; }
  Dtype parameter_dtype() const { return half_parameters ? dtype : Dtype::float32; }
  Layout grad_layout() const {
    return layout == Layout::expanded_first || layout == Layout::expanded ? Layout::contiguous : layout;
  }
  // How much rounding is enlarged: all pixels are equal, so that the variance is 0 and epsilon alone divides; hidden
  // channels are small differences; or there is one channel, whose weights the norm undoes, so that their gradient is
  // next to nothing.
  double sensitivity() const {
    const bool equal = layout == Layout::expanded || samples * height * width == 1;
    return training && equal ? 4000 : input_mean > 0 ? 100 : training && channels == 1 ? 10 : 1;
  }
  // On tensor cores weights, and gradients of hidden channels, have 16 bits.
  double tolerance() const { return kTolerance * sensitivity() * (dtype == Dtype::bfloat16 ? 8 : 1); }
  std::string name() const {
    constexpr const char* dtypes[] = {"f64", "f32", "bf16", "f16"};
    std::string text;
    for (const int64_t size : {samples, channels, height, width}) text += std::to_string(size) + " ";
    return text + dtypes[int(dtype)] + " " + layout_name(layout) + (training ? " training" : "") +
           (exact ? " exact" : "") + (half_parameters ? " half parameters" : "") + (beside ? " beside" : "") +
           (need_input ? " input" : "") + (need_parameters ? " parameters" : "");
  }
  // Every number of ways, in vectors and not: a part of the time.
  bool in_brief() const {
    return samples <= 3 && height * width <= 50 && (layout == Layout::contiguous || layout == Layout::channels_last) &&
           dtype != Dtype::float16;
  }
  bool is_extreme() const { return samples > 3 || input_mean != 0; }
};

std::vector<std::vector<int64_t>> parameter_sizes(const Case& one) {
  return {{16, one.channels}, {16}, {16}, {16}, {4, 16}, {4}};
}

struct Tensors {
  explicit Tensors(const Case& one)
      : input({one.samples, one.channels, one.height, one.width}, 1, one.layout, one.dtype),
        beside({one.samples, one.channels, one.height, one.width}, 1, one.grad_layout(), one.dtype),
        grad_shift({one.samples, 3}, 0, Layout::contiguous, Dtype::float32),
        given_mean({16}, 0, Layout::contiguous, Dtype::float32),
        given_variance({16}, 0, Layout::contiguous, Dtype::float32) {
    std::mt19937 random(20);
    input.fill(random, one.input_mean, 1), beside.fill(random), grad_shift.fill(random);
    given_mean.fill(random), given_variance.fill(random, 1.5, 0.1);
    for (const std::vector<int64_t>& size : parameter_sizes(one)) {
      parameters.emplace_back(size, 0, Layout::contiguous, one.parameter_dtype());
      const bool is_weight1 = parameters.size() == 1, is_gain = parameters.size() == 3;
      parameters.back().fill(random, is_gain ? 1 : 0, is_weight1 ? 1 / std::sqrt(double(one.channels)) : 0.5);
    }
  }
  Strided input, beside, grad_shift, given_mean, given_variance;
  std::vector<Strided> parameters;

  std::vector<double> parameter(int i) const {
    return parameters[i].rank() == 2 ? parameters[i].values({0, 1}) : parameters[i].values({0});
  }
};

struct Expected {
  std::vector<double> mean, variance, running_mean, running_variance, shift, grad_input;
  std::vector<std::vector<double>> grads;
};

struct Maps {  // [pixels of the batch][16] and [..][4]
  std::vector<double> hidden, normalised, active, scores;
};

// Pixel by pixel: [samples, rows, columns, channels].
Maps maps_of(const std::vector<double>& input, const std::vector<std::vector<double>>& p, int64_t channels,
             const std::vector<double>* mean, const std::vector<double>* variance) {
  const int64_t pixels = int64_t(input.size()) / channels;
  Maps maps;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    double scores[4] = {p[5][0], p[5][1], p[5][2], p[5][3]};
    for (int h = 0; h < 16; ++h) {
      double hidden = p[1][h];
      for (int64_t c = 0; c < channels; ++c) hidden += p[0][h * channels + c] * input[pixel * channels + c];
      maps.hidden.push_back(hidden);
      if (!mean) continue;
      const double normalised = (hidden - (*mean)[h]) / std::sqrt((*variance)[h] + kEpsilon);
      const double active = std::max(p[2][h] * normalised + p[3][h], 0.0);
      maps.normalised.push_back(normalised), maps.active.push_back(active);
      for (int s = 0; s < 4; ++s) scores[s] += p[4][s * 16 + h] * active;
    }
    maps.scores.insert(maps.scores.end(), scores, scores + 4);
  }
  return maps;
}

void statistics_of(const Case& one, const std::vector<double>& hidden, Expected& expected) {
  const double pixels = double(hidden.size()) / 16;
  std::mt19937 random(22);
  Strided running_mean({16}, 0, Layout::contiguous, one.parameter_dtype()),
      running_variance({16}, 0, Layout::contiguous, one.parameter_dtype());
  running_mean.fill(random), running_variance.fill(random);
  for (int h = 0; h < 16; ++h) {
    double mean = 0, squares = 0;
    for (size_t i = h; i < hidden.size(); i += 16) mean += hidden[i] / pixels;
    for (size_t i = h; i < hidden.size(); i += 16) squares += (hidden[i] - mean) * (hidden[i] - mean);
    expected.mean.push_back(mean), expected.variance.push_back(squares / pixels);
    const double share =
        one.exact ? 1.0 / 5 : kMomentum;  // exact: also a mean over all batches, of which this is the 5th
    const double before = running_mean.values({0})[h], before_variance = running_variance.values({0})[h];
    expected.running_mean.push_back(before + share * (mean - before));
    expected.running_variance.push_back(before_variance + share * (squares / (pixels - 1) - before_variance));
  }
}

// Gradients of the scores, and the shift.
std::vector<double> score_gradients(const Case& one, const std::vector<double>& scores,
                                    const std::vector<double>& grad_shift, Expected& expected,
                                    std::vector<double>& grad_bias2) {
  const int64_t pixels = one.height * one.width;
  std::vector<double> result(scores.size());
  grad_bias2.assign(4, 0);
  for (int64_t sample = 0; sample < one.samples; ++sample) {
    const double* of_sample = &scores[sample * pixels * 4];
    double v[4], sums[4] = {}, maxima[4], grad_v[4];
    for (int s = 0; s < 4; ++s) {
      maxima[s] = of_sample[s], v[s] = 0;
      for (int64_t i = 0; i < pixels; ++i) maxima[s] = std::max(maxima[s], of_sample[i * 4 + s]);
      for (int64_t i = 0; i < pixels; ++i) {
        const double e = std::exp(of_sample[i * 4 + s] - maxima[s]);
        sums[s] += e, v[s] += e * of_sample[i * 4 + s];
      }
      v[s] /= sums[s];
    }
    const Vector3 shift = shift_of_rotation(v, one.exact);
    expected.shift.insert(expected.shift.end(), {shift.x, shift.y, shift.z});
    const double* grad = &grad_shift[sample * 3];
    grad_of_pooled(v, {grad[0], grad[1], grad[2]}, one.exact, grad_v);
    for (int s = 0; s < 4; ++s) {
      grad_bias2[s] += grad_v[s];
      for (int64_t i = 0; i < pixels; ++i) {
        const double m = of_sample[i * 4 + s];
        result[(sample * pixels + i) * 4 + s] = grad_v[s] * std::exp(m - maxima[s]) / sums[s] * (1 + m - v[s]);
      }
    }
  }
  return result;
}

// Of the hidden channels, [pixels of the batch][16], and of what lies between them and the scores.
std::vector<double> hidden_gradients(const Case& one, const std::vector<std::vector<double>>& p, const Maps& maps,
                                     const std::vector<double>& grad_scores, const std::vector<double>& variance,
                                     Expected& expected) {
  const size_t pixels = maps.scores.size() / 4;
  std::vector<double> grad(pixels * 16);
  for (int h = 0; h < 16; ++h) {
    double sum = 0, product = 0;
    for (size_t i = 0; i < pixels; ++i) {
      const double active = maps.active[i * 16 + h];
      double& z = grad[i * 16 + h];
      for (int s = 0; s < 4; ++s) {
        expected.grads[4][s * 16 + h] += grad_scores[i * 4 + s] * active;
        if (active > 0) z += p[4][s * 16 + h] * grad_scores[i * 4 + s];
      }
      sum += z, product += z * maps.normalised[i * 16 + h];
    }
    expected.grads[2][h] = product, expected.grads[3][h] = sum;
    const double factor = p[2][h] / std::sqrt(variance[h] + kEpsilon), count = double(pixels);
    for (size_t i = 0; i < pixels; ++i) {
      double& z = grad[i * 16 + h];
      z = factor * (one.training ? z - sum / count - maps.normalised[i * 16 + h] * product / count : z);
    }
    expected.grads[1][h] = one.training ? 0 : factor * sum;
  }
  return grad;
}

// used_mean, used_variance: those of the forward under test, since the backward starts from them.
Expected expected_of(const Case& one, const Tensors& tensors, const std::vector<double>& used_mean,
                     const std::vector<double>& used_variance) {
  const std::vector<double> input = tensors.input.values({0, 2, 3, 1});
  std::vector<std::vector<double>> p;
  for (int i = 0; i < 6; ++i) p.push_back(tensors.parameter(i));
  Expected expected;
  if (one.training)
    statistics_of(one, maps_of(input, p, one.channels, nullptr, nullptr).hidden, expected);
  else
    expected.mean = tensors.given_mean.values({0}), expected.variance = tensors.given_variance.values({0});
  // A large mean is rounded by more than what it is taken from varies.
  const std::vector<double>& mean = one.input_mean > 0 ? expected.mean : used_mean;
  const Maps maps = maps_of(input, p, one.channels, &mean, &used_variance);
  for (const std::vector<double>& parameter : p) expected.grads.emplace_back(parameter.size());
  const std::vector<double> grad_scores =
      score_gradients(one, maps.scores, tensors.grad_shift.values({0, 1}), expected, expected.grads[5]);
  const std::vector<double> grad = hidden_gradients(one, p, maps, grad_scores, used_variance, expected);
  expected.grad_input.assign(input.size(), 0);
  const std::vector<double> beside = tensors.beside.values({0, 1, 2, 3});
  const int64_t pixels = one.height * one.width;
  for (int64_t i = 0; i < one.samples * pixels; ++i)
    for (int64_t c = 0; c < one.channels; ++c) {
      const int64_t at = (i / pixels * one.channels + c) * pixels + i % pixels;
      if (one.beside) expected.grad_input[at] = beside[at];
      for (int h = 0; h < 16; ++h) {
        expected.grad_input[at] += p[0][h * one.channels + c] * grad[i * 16 + h];
        expected.grads[0][h * one.channels + c] += grad[i * 16 + h] * input[i * one.channels + c];
      }
    }
  return expected;
}

// The largest error as a fraction of what is allowed: a part of the largest value, or of 1e-3 where all are next to
// nothing, and the rounding of the stored type.
double worst_of(const std::vector<double>& got, const std::vector<double>& expected, Dtype dtype, double tolerance) {
  double largest = 1e-3, result = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = tolerance * largest + 0.51 * unit_in_last_place(expected[i], dtype);
    const double fraction = std::fabs(got[i] - expected[i]) / allowed;
    result = std::max(result, std::isnan(fraction) ? HUGE_VAL : fraction);
  }
  return result;
}

}  // namespace check
