// Whether convolutions of float32 may round to TF32 on a GPU: torch.backends.cudnn.conv.fp32_precision, which is tf32
// by default. The stable ABI does not tell it, so those who call the operators do: Python (crossd_ops/tuning/tf32.py)
// and the public header for C++.
#pragma once
#include <atomic>

namespace crossd_ops {

class Tf32 {
 public:
  static bool is_allowed() { return flag().load(std::memory_order_relaxed); }
  static void allow(bool allowed) { flag().store(allowed, std::memory_order_relaxed); }

 private:
  static std::atomic<bool>& flag() {
    static std::atomic<bool> flag = true;
    return flag;
  }
};

inline void allow_tf32(bool allowed) { Tf32::allow(allowed); }

}  // namespace crossd_ops
