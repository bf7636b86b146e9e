// crossd_ops._C: the facts of the build for Python. Free of torch, so that it can say what was built where torch and
// the library do not fit together; the package works without it.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "build_facts.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::list kernel_sizes, architectures;
  for (const int size : crossd_ops::kFastKernelSizes) kernel_sizes.append(size);
  std::istringstream names(crossd_ops::kCudaArchitectures);
  for (std::string name; std::getline(names, name, ';');) architectures.append(name);

  py::dict info;
  info["version"] = crossd_ops::kVersion;
  info["cuda_version"] =
      crossd_ops::kCudaVersion ? py::object(py::str(crossd_ops::kCudaVersion)) : py::object(py::none());
  info["cuda_architectures"] = architectures;
  info["compiler"] = crossd_ops::kCompiler;
  info["torch_target"] = crossd_ops::kTorchTarget;
  info["fast_kernel_sizes"] = kernel_sizes;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts of the build.";
  module.def(
      "build_info", &build_info,
      "Version, CUDA version (None: no CUDA kernels) and architectures, compiler, the oldest torch that the library "
      "runs on, and the kernel sizes with a fast path.");
}
