// The small tensors of the head as float32, in which everything is computed: where they lie, or a copy.
#pragma once
#include <algorithm>
#include <vector>

#include "head/cpu/plan.h"

namespace crossd_ops::cpu {

class FloatValues {
 public:
  FloatValues(const HeadKernels& kernels, const HeadValues& values, int64_t count)
      : copy_(values.dtype == Dtype::float32 ? 0 : count), data_(static_cast<const float*>(values.data)) {
    if (copy_.empty()) return;
    kernels.read(values.data, values.dtype, count, copy_.data());
    data_ = copy_.data();
  }
  FloatValues(const FloatValues&) = delete;
  const float* data() const { return data_; }
  float operator[](int64_t i) const { return data_[i]; }

 private:
  std::vector<float> copy_;
  const float* data_;
};

// To be written, and in the tensor's own type at the end of its life.
class FloatTarget {
 public:
  FloatTarget(const HeadKernels& kernels, const HeadTarget& target, int64_t count)
      : kernels_(kernels), target_(target), copy_(target.dtype == Dtype::float32 ? 0 : count) {}
  ~FloatTarget() {
    if (!copy_.empty()) kernels_.write(copy_.data(), static_cast<int64_t>(copy_.size()), target_.data, target_.dtype);
  }
  FloatTarget(const FloatTarget&) = delete;
  float* data() { return copy_.empty() ? static_cast<float*>(target_.data) : copy_.data(); }
  float& operator[](int64_t i) { return data()[i]; }

 private:
  const HeadKernels& kernels_;
  HeadTarget target_;
  std::vector<float> copy_;
};

}  // namespace crossd_ops::cpu
