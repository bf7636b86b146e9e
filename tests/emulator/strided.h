// Tensors in plain memory, with any strides: what the kernels are given, and what they wrote.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "half_types.h"

namespace check {

// How a tensor of given sizes lies in memory.
enum class Layout {
  contiguous,
  offset,          // contiguous, but one element into its storage: not aligned for wide accesses
  channels_last,   // the in-channels vary fastest
  padded,          // part of a tensor that is larger along every axis
  tap_major,       // the kernel axes vary slowest, but for the samples
  transposed,      // first and last kernel axis exchanged
  expanded_first,  // stride 0 along the first axis
  expanded,        // stride 0 along every axis, as in the gradient of a sum
};
inline const char* layout_name(Layout layout) {
  constexpr const char* names[] = {"contiguous", "offset",     "channels-last",  "padded",
                                   "tap-major",  "transposed", "expanded-first", "expanded"};
  return names[int(layout)];
}

class Strided {
 public:
  // channel_axis: the axis of the in-channels, behind which the kernel axes follow.
  Strided(std::vector<int64_t> sizes, int channel_axis, Layout layout, Dtype dtype)
      : sizes_(std::move(sizes)), strides_(sizes_.size()), dtype_(dtype) {
    const int rank = int(sizes_.size());
    std::vector<int> slowest_first;
    for (int axis = 0; axis < rank; ++axis) slowest_first.push_back(axis);
    if (layout == Layout::channels_last) {
      std::rotate(slowest_first.begin() + channel_axis, slowest_first.begin() + channel_axis + 1, slowest_first.end());
    }
    if (layout == Layout::tap_major) {
      const auto channels = slowest_first.begin() + channel_axis - 1;
      std::rotate(channels, channels + 2, slowest_first.end());
    }
    if (layout == Layout::transposed) std::swap(slowest_first[channel_axis + 1], slowest_first[rank - 1]);
    int64_t stride = 1;
    for (auto axis = slowest_first.rbegin(); axis != slowest_first.rend(); ++axis) {
      const bool expanded = layout == Layout::expanded || (layout == Layout::expanded_first && *axis == 0);
      strides_[*axis] = expanded ? 0 : stride;
      if (!expanded) stride *= sizes_[*axis] + (layout == Layout::padded ? 1 : 0);
    }
    offset_ = layout == Layout::offset || layout == Layout::padded ? 1 : 0;
    count_ = size_t(stride + offset_);
    storage_.reset(new char[count_ * element_size(dtype_)]);  // not a byte more, for AddressSanitizer
    poison();
  }

  void poison() { std::memset(storage_.get(), 0xff, bytes()); }
  void fill(std::mt19937& random, double mean = 0, double deviation = 1) {
    std::normal_distribution<double> normal(mean, deviation);
    for (size_t i = 0; i < count_; ++i) write_element(&storage_[i * element_size(dtype_)], dtype_, normal(random));
  }
  void* memory() { return storage_.get(); }
  void* data() { return &storage_[offset_ * element_size(dtype_)]; }
  int rank() const { return int(sizes_.size()); }
  int64_t stride(int axis) const { return strides_[axis]; }
  std::string raw() const { return std::string(storage_.get(), bytes()); }

  // All elements as double, with the axes in the given order.
  std::vector<double> values(const std::vector<int>& axes) const {
    std::vector<double> result;
    visit(axes, [&](size_t at) { result.push_back(read_element(&storage_[at * element_size(dtype_)], dtype_)); });
    return result;
  }
  // True where memory that is no element of the tensor has been written.
  bool wrote_outside() const {
    std::vector<bool> is_element(count_);
    std::vector<int> axes(sizes_.size());
    for (size_t i = 0; i < axes.size(); ++i) axes[i] = int(i);
    visit(axes, [&](size_t at) { is_element[at] = true; });
    for (size_t i = 0; i < bytes(); ++i) {
      if (!is_element[i / element_size(dtype_)] && storage_[i] != char(0xff)) return true;
    }
    return false;
  }

 private:
  size_t bytes() const { return count_ * element_size(dtype_); }

  template <typename Function>
  void visit(const std::vector<int>& axes, Function&& function) const {
    int64_t total = 1;
    for (const int64_t size : sizes_) total *= size;
    for (int64_t i = 0; i < total; ++i) {
      int64_t rest = i, at = offset_;
      for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
        at += rest % sizes_[*axis] * strides_[*axis];
        rest /= sizes_[*axis];
      }
      function(size_t(at));
    }
  }

  std::vector<int64_t> sizes_, strides_;
  Dtype dtype_;
  int64_t offset_ = 0;
  size_t count_ = 0;
  std::unique_ptr<char[]> storage_;
};

}  // namespace check
