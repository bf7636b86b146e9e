// A case of shifted columns: its tensors, and what they should hold, in double from the definitions.
#pragma once
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "convolution/shifted_columns/problem.h"
#include "tiles_case.h"

namespace check {

int64_t elements_of(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }
std::array<int64_t, 3> place_of(int64_t index, const Axes& sizes) {
  return {index / (sizes[1] * sizes[2]), index / sizes[2] % sizes[1], index % sizes[2]};
}

struct Case {
  ShiftedColumnsProblem problem;  // without strides
  int64_t room = 0;               // elements between pixels, and between their rows, that belong to none
  double shift = 1;               // its size; not finite: of the first sample

  std::string name() const {
    constexpr const char* dtypes[] = {"f64", "f32", "bf16", "f16"};
    const auto text = [](const Axes& a) {
      return std::to_string(a[0]) + "x" + std::to_string(a[1]) + "x" + std::to_string(a[2]);
    };
    return std::to_string(problem.samples) + "x" + text(problem.image) + "x" + std::to_string(problem.channels) + " " +
           dtypes[int(problem.dtype)] + " groups " + std::to_string(problem.groups) + " weight " +
           text(problem.weight) + " sliced " + std::to_string(problem.sliced) + " at " + std::to_string(problem.index) +
           " stride " + text(problem.stride) + " padding " + text(problem.padding) + " dilation " +
           text(problem.dilation) + " rows " + std::to_string(problem.first_row) + " and " +
           std::to_string(problem.rows) + " room " + std::to_string(room) + " shift " + std::to_string(shift);
  }
};

// A tap, or its derivative in the shift, as taps.cuh defines it.
double tap(int64_t n, int64_t size, double shift, bool derived) {
  const double turn = 2 * 3.14159265358979323846 / double(size);
  double sum = (derived ? 0 : 1) + (shift - shift);
  for (int64_t m = 1; 2 * m < size; ++m) {
    const double angle = turn * double(m) * (double(n) - shift);
    sum += derived ? 2 * turn * double(m) * std::sin(angle) : 2 * std::cos(angle);
  }
  return sum / double(size);
}

// A sum in double and what its terms come to, for the error that is allowed.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term, double at_most) { value += term, magnitude += at_most; }
  std::string fault(double found, double roundings, Dtype accumulated, Dtype dtype, const std::string& what) const {
    if (std::isnan(value) && std::isnan(found)) return "";
    const double allowed = roundings * unit_in_last_place(1.0, accumulated) * magnitude +
                           (dtype == accumulated ? 0 : 0.51 * unit_in_last_place(value, dtype));
    if (std::fabs(found - value) <= allowed) return "";
    return what + " is " + std::to_string(found) + ", the sum is " + std::to_string(value);
  }
};

class Tensors {
 public:
  Tensors(const Case& one, std::mt19937& random)
      : problem(strided(one)),
        image(elements_of_image(one.room), problem.dtype, random),
        columns(problem.rows * problem.channels * elements_of(problem.weight), problem.dtype, random),
        seen(problem.rows * problem.channels * elements_of(problem.kernel), problem.dtype, random),
        shift(problem.samples * 3, problem.shift_dtype, random),
        partial(shifted_columns_partials(problem) * problem.samples * 3, problem.shift_dtype, random) {
    for (int64_t i = 0; i < problem.samples * 3; ++i)
      if (std::isfinite(one.shift) || i < 3)
        write_element(static_cast<char*>(shift.data_at(i)), problem.shift_dtype, one.shift * shift.at(i));
    for (int axis = 0; axis < 3; ++axis) fill_matrices(axis);
  }

  // visit(row, channel, first element of the row's columns, of what it sees) for all that is asked for.
  template <typename Visit>
  std::string first_fault(const Visit& visit) const {
    for (int64_t row = 0; row < problem.rows; ++row)
      for (int64_t channel = 0; channel < problem.channels; ++channel) {
        const int64_t of_group = problem.channels / problem.groups, group = channel / of_group;
        const int64_t column = row * problem.channels * elements_of(problem.weight) +
                               group * of_group * elements_of(problem.weight) + channel % of_group;
        const std::string fault =
            visit(row, channel, column, row * problem.channels * elements_of(problem.kernel) + channel);
        if (!fault.empty()) return fault;
      }
    return "";
  }
  int64_t sample_of(int64_t row) const { return (problem.first_row + row) / elements_of(problem.result); }

  // The pixel of the image that an element of a kernel sees, as an offset in a sample; below 0: outside.
  int64_t pixel_seen(int64_t row, int64_t element) const {
    const auto p = place_of((problem.first_row + row) % elements_of(problem.result), problem.result);
    const auto k = place_of(element, problem.kernel);
    int64_t offset = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t at = p[axis] * problem.stride[axis] - problem.padding[axis] + k[axis] * problem.dilation[axis];
      if (at < 0 || at >= problem.image[axis]) return -1;
      offset += at * problem.image_pixel[axis];
    }
    return offset;
  }
  double value_seen(int64_t row, int64_t element, int64_t channel) const {
    const int64_t pixel = pixel_seen(row, element);
    return pixel < 0 ? 0 : image.at(sample_of(row) * problem.image_sample + pixel + channel);
  }
  // What an element of a kernel counts for one of the weight; derived: along an axis of the weight, or along none.
  double weight_of(int64_t sample, int64_t element, int64_t of_kernel, int derived = -1) const {
    const auto i = place_of(element, problem.weight), k = place_of(of_kernel, problem.kernel);
    double product = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const int own = weight_axis(problem, axis);
      const int64_t at = problem.sliced == own ? problem.index : k[axis];
      const int64_t n = (at - i[own] + problem.weight[own]) % problem.weight[own];
      product *= matrices_[own][(sample * 2 + (derived == own)) * kMostShiftedSize + n];
    }
    return product;
  }

  std::string fault_of_columns() const {
    const int64_t of_group = problem.channels / problem.groups, taps = elements_of(problem.kernel);
    return first_fault([&](int64_t row, int64_t channel, int64_t column, int64_t) -> std::string {
      std::vector<double> seen_by_row(taps);
      for (int64_t k = 0; k < taps; ++k) seen_by_row[k] = value_seen(row, k, channel);
      for (int64_t i = 0; i < elements_of(problem.weight); ++i) {
        Sum sum;
        for (int64_t k = 0; k < taps; ++k)
          sum.add(weight_of(sample_of(row), i, k) * seen_by_row[k], std::fabs(seen_by_row[k]));
        const std::string fault =
            sum.fault(columns.at(column + i * of_group), 16, problem.shift_dtype, problem.dtype, "a column");
        if (!fault.empty()) return fault;
      }
      return "";
    });
  }

  std::string fault_of_gradient(bool need_seen, bool need_shift) const {
    const int64_t of_group = problem.channels / problem.groups, taps = elements_of(problem.kernel);
    std::vector<Sum> of_shift(problem.samples * 3);
    const std::string fault = first_fault([&](int64_t row, int64_t channel, int64_t column, int64_t first) {
      const int64_t sample = sample_of(row);
      for (int64_t k = 0; k < taps; ++k) {
        Sum sum;
        const double value = value_seen(row, k, channel);
        for (int64_t i = 0; i < elements_of(problem.weight); ++i) {
          const double grad = columns.at(column + i * of_group);
          sum.add(weight_of(sample, i, k) * grad, std::fabs(grad));
          for (int axis = 0; axis < 3; ++axis)
            of_shift[sample * 3 + axis].add(weight_of(sample, i, k, axis) * grad * value, std::fabs(grad * value));
        }
        const std::string found = need_seen ? sum.fault(seen.at(first + k * problem.channels), 16, problem.shift_dtype,
                                                        problem.dtype, "the gradient")
                                            : "";
        if (!found.empty()) return found;
      }
      return std::string();
    });
    if (!fault.empty() || !need_shift) return fault;
    for (int64_t i = 0; i < problem.samples * 3; ++i) {
      double found = 0;
      for (int64_t part = 0; part < shifted_columns_partials(problem); ++part)
        found += partial.at(part * problem.samples * 3 + i);
      const std::string text =
          of_shift[i].fault(found, 8, problem.shift_dtype, problem.shift_dtype, "the shift's gradient");
      if (!text.empty()) return text;
    }
    return "";
  }

  // Of an image that held `before`.
  std::string fault_of_image(const Elements& before) const {
    std::vector<Sum> sums(problem.samples * problem.image_sample);
    first_fault([&](int64_t row, int64_t channel, int64_t, int64_t first) {
      for (int64_t k = 0; k < elements_of(problem.kernel); ++k) {
        const double value = seen.at(first + k * problem.channels);
        const int64_t pixel = pixel_seen(row, k);
        if (pixel >= 0) sums[sample_of(row) * problem.image_sample + pixel + channel].add(value, std::fabs(value));
      }
      return std::string();
    });
    std::vector<bool> is_room(image.count(), true);
    for (int64_t sample = 0; sample < problem.samples; ++sample)
      for (int64_t pixel = 0; pixel < elements_of(problem.image); ++pixel)
        for (int64_t channel = 0; channel < problem.channels; ++channel) {
          const auto place = place_of(pixel, problem.image);
          int64_t at = sample * problem.image_sample + channel;
          for (int axis = 0; axis < 3; ++axis) at += place[axis] * problem.image_pixel[axis];
          if (problem.accumulate) sums[at].add(before.at(at), std::fabs(before.at(at)));
          const std::string fault = sums[at].fault(image.at(at), 8, problem.shift_dtype, problem.dtype, "a pixel");
          if (!fault.empty()) return fault;
          is_room[at] = false;
        }
    for (int64_t at = 0; at < image.count(); ++at)
      if (is_room[at] && (problem.accumulate ? image.at(at) != before.at(at) : !std::isnan(image.at(at))))
        return "wrote between pixels";
    return "";
  }

  ShiftedColumnsProblem problem;
  Elements image, columns, seen, shift, partial;

 private:
  static ShiftedColumnsProblem strided(const Case& one) {
    ShiftedColumnsProblem problem = one.problem;
    problem.image_pixel[2] = problem.channels + one.room;
    problem.image_pixel[1] = problem.image[2] * problem.image_pixel[2] + one.room;
    problem.image_pixel[0] = problem.image[1] * problem.image_pixel[1];
    problem.image_sample = problem.image[0] * problem.image_pixel[0];
    return problem;
  }
  // Without the room behind the last pixel.
  int64_t elements_of_image(int64_t room) const {
    return problem.samples * problem.image_sample - (problem.samples ? 2 * room : 0);
  }
  void fill_matrices(int axis) {
    matrices_[axis].resize(problem.samples * 2 * kMostShiftedSize);
    for (int64_t at = 0; at < int64_t(matrices_[axis].size()); ++at) {
      const int64_t sample = at / kMostShiftedSize / 2, n = at % kMostShiftedSize;
      matrices_[axis][at] = tap(n, problem.weight[axis], shift.at(sample * 3 + axis), at / kMostShiftedSize % 2 == 1);
    }
  }
  std::array<std::vector<double>, 3> matrices_;  // by the weight's axis: taps and their derivatives of each sample
};

}  // namespace check
