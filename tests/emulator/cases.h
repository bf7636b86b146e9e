// The problems that check_kernels runs, in groups.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "strided.h"

namespace check {

constexpr int kWhole = -1;  // in place of a slice's index
enum class Special { none, nan_shift, infinite_shift, large_shift };

struct Case {
  int kernel[3];  // spatial order
  int dim = 0, index = kWhole;
  int samples = 2, out_channels = 3, in_channels = 5;
  Dtype weight = Dtype::float32, out = Dtype::float32;  // the gradient of the output has its dtype
  Layout weight_layout = Layout::contiguous, grad_layout = Layout::contiguous, grad_weight_layout = Layout::contiguous;
  Special special = Special::none;
  bool tap_major = false;  // the output and its gradient

  std::string name() const {
    constexpr const char* dtypes[] = {"f64", "f32", "bf16", "f16"};
    constexpr const char* specials[] = {"", " nan shift", " infinite shift", " large shift"};
    std::string text = std::to_string(kernel[0]) + "x" + std::to_string(kernel[1]) + "x" + std::to_string(kernel[2]);
    text += index == kWhole ? " whole" : " dim " + std::to_string(dim) + " index " + std::to_string(index);
    text +=
        " B=" + std::to_string(samples) + " O=" + std::to_string(out_channels) + " C=" + std::to_string(in_channels);
    text += std::string(" ") + dtypes[int(weight)] + " to " + dtypes[int(out)];
    for (const Layout layout : {weight_layout, grad_layout, grad_weight_layout})
      text += std::string(" ") + layout_name(layout);
    return text + specials[int(special)] + (tap_major ? " tap-major" : "");
  }
};

inline Case cubic(int kernel) { return {{kernel, kernel, kernel}, 0, kernel / 2}; }

constexpr Dtype kDtypes[] = {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16};

// Every pair of dtypes for the slice and for the whole weight, on each path of the kernels: 3, 5 and 7, odd, even.
inline std::vector<Case> dtype_cases() {
  std::vector<Case> cases;
  for (const int kernel : {3, 4, 5, 7}) {
    for (const Dtype weight : kDtypes) {
      for (const Dtype out : kDtypes) {
        Case one = cubic(kernel);
        one.weight = weight, one.out = out;
        one.out_channels = kernel == 3 ? 13 : 5;
        one.in_channels = kernel == 3 ? 11 : 3;
        cases.push_back(one);
        const bool diagonal = weight == out || (weight == Dtype::float32 && out == Dtype::bfloat16);
        if (diagonal && kernel < 7) one.index = kWhole, cases.push_back(one);
        one.tap_major = true, one.in_channels = 8;  // full tiles and a rest, aligned
        if (diagonal) cases.push_back(one), one.index = 1, cases.push_back(one);
      }
    }
  }
  return cases;
}

// All sizes, odd and even, cubic or not; every plane, first, middle and last index; the whole weight.
inline std::vector<Case> kernel_cases() {
  std::vector<Case> cases;
  for (int kernel = 1; kernel <= crossd_ops::kMaxKernel; ++kernel) {
    Case one = cubic(kernel);
    one.weight = one.out = kernel % 3 ? Dtype::float32 : Dtype::float64;
    if (kernel > 8) one.samples = 1, one.out_channels = 2, one.in_channels = 1;
    cases.push_back(one);
    if (kernel <= 9 || kernel == 11) one.index = kWhole, cases.push_back(one);
  }
  const int sizes[][3] = {{3, 3, 3}, {5, 5, 5}, {7, 7, 7}, {4, 4, 4}, {2, 2, 2}, {2, 3, 5}, {1, 3, 3},
                          {4, 4, 3}, {3, 5, 4}, {6, 1, 2}, {3, 1, 1}, {1, 1, 2}, {5, 3, 3}, {3, 3, 7}};
  for (const auto& size : sizes) {
    for (int dim = 0; dim < 3; ++dim) {
      for (const int index : {0, size[dim] / 2, size[dim] - 1}) {
        Case one{{size[0], size[1], size[2]}, dim, index};
        one.weight = one.out = index ? Dtype::float32 : Dtype::float64;
        cases.push_back(one);
      }
    }
    cases.push_back({{size[0], size[1], size[2]}});
  }
  return cases;
}

// Tensors that are not contiguous, not aligned, expanded.
inline std::vector<Case> layout_cases() {
  std::vector<Case> cases;
  const Layout layouts[] = {Layout::offset,     Layout::channels_last,  Layout::padded,  Layout::tap_major,
                            Layout::transposed, Layout::expanded_first, Layout::expanded};
  for (const int kernel : {3, 4, 5}) {
    for (const Layout layout : layouts) {
      Case one = cubic(kernel);
      one.out_channels = 7;
      one.out = one.weight = kernel == 5 ? Dtype::bfloat16 : Dtype::float32;
      one.weight_layout = layout;
      cases.push_back(one);
      one.grad_layout = layout;
      one.index = kernel == 3 ? kWhole : 0;
      cases.push_back(one);
      one.weight_layout = Layout::contiguous;
      one.index = 1, one.dim = 1;
      cases.push_back(one);
      if (layout == Layout::expanded_first || layout == Layout::expanded) continue;  // an output overlaps nowhere
      one.grad_layout = Layout::contiguous;
      one.grad_weight_layout = layout;
      one.dim = 2;
      cases.push_back(one);
    }
  }
  return cases;
}

// Tiles that are full, nearly full, or nearly empty; one sample and many.
inline std::vector<Case> size_cases() {
  std::vector<Case> cases;
  for (const int pairs : {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 600}) {
    Case one = cubic(3);
    one.out_channels = pairs, one.in_channels = 1;
    one.samples = pairs == 64 ? 33 : pairs == 1 ? 70 : 1 + pairs % 3;
    one.out = pairs % 2 ? Dtype::bfloat16 : Dtype::float32;
    cases.push_back(one);
    if (pairs > 129) continue;
    one = cubic(5 + pairs % 3 % 2 * 2);
    one.in_channels = pairs;
    one.samples = pairs == 33 ? 17 : 2;
    cases.push_back(one);
  }
  for (const int pairs : {63, 64}) {  // of five samples and nine, four at a time
    Case one = cubic(7);
    one.in_channels = pairs, one.out_channels = 1, one.samples = pairs == 63 ? 5 : 9;
    cases.push_back(one);
  }
  Case many_tiles = cubic(4);  // more than sum_partials takes in one round, and two groups of samples
  many_tiles.out_channels = 70, many_tiles.in_channels = 1, many_tiles.samples = 9;
  cases.push_back(many_tiles);
  for (const int kernel : {3, 4, 5}) {
    for (const int empty : {0, 1, 2}) {
      Case one = cubic(kernel);
      (empty == 0 ? one.samples : empty == 1 ? one.out_channels : one.in_channels) = 0;
      cases.push_back(one);
      one.index = kWhole;
      cases.push_back(one);
    }
  }
  return cases;
}

// NaN and infinity stay in their sample; a shift of many periods is as accurate as a small one.
inline std::vector<Case> special_cases() {
  std::vector<Case> cases;
  for (const Special special : {Special::nan_shift, Special::infinite_shift, Special::large_shift}) {
    for (const int kernel : {1, 2, 3, 4, 5, 7, 8, 15}) {
      if (kernel == 15 && special != Special::large_shift) continue;  // for its harmonics, up to 7 times the shift
      for (const Dtype dtype : {Dtype::float64, Dtype::float32}) {
        Case one = cubic(kernel);
        one.samples = 3;
        if (kernel == 15) one.out_channels = 1, one.in_channels = 2;
        one.weight = one.out = dtype;
        one.special = special;
        cases.push_back(one);
        if (kernel < 5 && dtype == Dtype::float32) one.index = kWhole, cases.push_back(one);
      }
    }
  }
  return cases;
}

// A few problems of each kernel, for sanitizers, which slow it down by a factor of up to 50. Small, but every barrier
// of every kernel matters in one of them.
inline std::vector<Case> brief_cases() {
  std::vector<Case> cases;
  for (const int kernel : {3, 5}) {  // enough samples that every buffer is used again
    Case one = cubic(kernel);
    one.samples = 35, one.out_channels = 2, one.in_channels = 1;
    cases.push_back(one);
  }
  for (const int kernel : {1, 3, 4, 5, 7}) {
    Case one = cubic(kernel);
    one.samples = 3;
    one.in_channels = kernel == 3 ? 43 : kernel % 2 ? 13 : 3;  // 129 pairs, 39 pairs: full tiles and a rest
    one.out = Dtype::bfloat16;
    cases.push_back(one);
    one.tap_major = true, one.in_channels = kernel == 3 ? 48 : 16, cases.push_back(one);  // aligned
    one.in_channels = kernel == 3 ? 43 : kernel % 2 ? 13 : 3;
    one.samples = 2, one.dim = 1, one.tap_major = false;
    one.weight = one.out = Dtype::float64;
    one.weight_layout = Layout::offset, one.grad_layout = Layout::padded,
    one.grad_weight_layout = Layout::channels_last;
    cases.push_back(one);
    one = cubic(kernel);
    one.index = kWhole;
    one.weight = one.out = Dtype::float16;
    one.grad_layout = Layout::expanded;
    cases.push_back(one);
  }
  // Every tile full and aligned: the 16-byte copies, whose buffers come round twice.
  for (const int kernel : {3, 5, 7}) {
    Case one = cubic(kernel);
    one.samples = 9, one.out_channels = 8, one.in_channels = kernel == 3 ? 16 : 4;
    one.weight = kernel == 5 ? Dtype::bfloat16 : Dtype::float32;
    one.out = Dtype::bfloat16;
    cases.push_back(one);
    one.tap_major = true, cases.push_back(one);
  }
  cases.push_back({{2, 3, 5}, 2, 1});
  cases.push_back({{4, 3, 2}});
  for (const int kernel : {8, 11, 15}) {
    Case one = cubic(kernel);
    one.samples = 1, one.out_channels = 2, one.in_channels = 1;
    cases.push_back(one);
  }
  Case empty = cubic(3);
  empty.samples = 0;
  cases.push_back(empty);
  return cases;
}

}  // namespace check
