// Whether float32 may round to TF32 on a GPU, as torch's settings have it: in convolutions by default, in products of
// matrices not (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision). A convolution of
// this library is one, whatever it is made of. The stable ABI does not tell the settings, so those who call the
// operators do: Python (crossd_ops/tuning/tf32.py) and the public header for C++.
#pragma once
#include <atomic>

namespace crossd_ops {

struct Tf32 {
  bool convolutions, products;

  static Tf32 allowed() { return setting().load(std::memory_order_relaxed); }
  static void allow(Tf32 allowed) { setting().store(allowed, std::memory_order_relaxed); }

 private:
  static std::atomic<Tf32>& setting() {
    static std::atomic<Tf32> setting = Tf32{true, false};
    return setting;
  }
};

inline void allow_tf32(bool convolutions, bool products) { Tf32::allow({convolutions, products}); }

}  // namespace crossd_ops
