// bfloat16 and float16 in plain code, written apart from the kernels' conversions: elements of any dtype as double.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "shift/problem.h"

namespace check {

using crossd_ops::Dtype;

inline size_t element_size(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// Binary formats by the bits of their significand (the hidden one included) and their smallest normal exponent.
struct Format {
  int significand_bits, smallest_exponent;
};
inline Format format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return {53, -1022};
    case Dtype::float32: return {24, -126};
    case Dtype::bfloat16: return {8, -126};
    case Dtype::float16: return {11, -14};
  }
  return {};
}

// Distance of neighbouring numbers around x.
inline double unit_in_last_place(double x, Dtype dtype) {
  const Format format = format_of(dtype);
  const int exponent = x == 0.0 ? format.smallest_exponent : std::max(std::ilogb(x), format.smallest_exponent);
  return std::ldexp(1.0, exponent - format.significand_bits + 1);
}

inline double read_half(uint16_t bits, Dtype dtype) {
  const int fraction_bits = format_of(dtype).significand_bits - 1;
  const int exponent_bits = 15 - fraction_bits;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction ? std::nan("") : sign * HUGE_VAL;
  const int smallest = format_of(dtype).smallest_exponent;
  if (exponent == 0) return sign * std::ldexp(fraction, smallest - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, smallest + exponent - 1 - fraction_bits);
}

// For finite values within the range, which is what inputs are made of; rounds to nearest even.
inline uint16_t write_half(double value, Dtype dtype) {
  const Format format = format_of(dtype);
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double unit = unit_in_last_place(value, dtype);
  const double rounded = std::nearbyint(std::fabs(value) / unit) * unit;
  const double smallest_normal = std::ldexp(1.0, format.smallest_exponent);
  const int fraction_bits = format.significand_bits - 1;
  if (rounded < smallest_normal) return sign | uint16_t(std::ldexp(rounded, fraction_bits - format.smallest_exponent));
  const int exponent = std::ilogb(rounded);
  const int significand = int(std::ldexp(rounded, fraction_bits - exponent));
  const int biased_exponent = exponent - format.smallest_exponent + 1;
  return uint16_t(sign | (biased_exponent << fraction_bits) | (significand - (1 << fraction_bits)));
}

inline double read_element(const char* address, Dtype dtype) {
  if (dtype == Dtype::float64) {
    double value;
    std::memcpy(&value, address, sizeof value);
    return value;
  }
  if (dtype == Dtype::float32) {
    float value;
    std::memcpy(&value, address, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, address, sizeof bits);
  return read_half(bits, dtype);
}

inline void write_element(char* address, Dtype dtype, double value) {
  const float single = float(value);
  const uint16_t half = element_size(dtype) == 2 ? write_half(value, dtype) : uint16_t(0);
  if (dtype == Dtype::float64) {
    std::memcpy(address, &value, sizeof value);
  } else if (dtype == Dtype::float32) {
    std::memcpy(address, &single, sizeof single);
  } else {
    std::memcpy(address, &half, sizeof half);
  }
}

}  // namespace check
