// What the launchers need of torch's CUDA side: the device of a tensor made current, and torch's current stream.
//
// A build with CUDA kernels must also load where torch has no CUDA, so the one symbol that only CUDA builds of torch
// have is looked up when the first CUDA tensor arrives (torch has loaded libtorch_cuda long before), instead of being
// linked.
#pragma once
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>

namespace crossd_ops {

class CudaDevice {
 public:
  explicit CudaDevice(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    if (current_stream()(tensor.get_device_index(), &stream_) != 0)
      throw std::runtime_error("crossd_ops: torch has no current CUDA stream");
  }
  void* stream() const { return stream_; }

 private:
  using CurrentStream = int32_t (*)(int32_t device_index, void** stream);

  static CurrentStream current_stream() {
    static const CurrentStream function = [] {
      void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
      void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
      if (!symbol) throw std::runtime_error("crossd_ops: a CUDA tensor came, but libtorch_cuda.so is not loaded");
      return reinterpret_cast<CurrentStream>(symbol);
    }();
    return function;
  }

  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace crossd_ops
