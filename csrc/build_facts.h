// What was built, as constants: read by crossd_ops._C. The build passes what only it knows as CROSSD_* macros.
#pragma once

namespace crossd_ops {

constexpr int kFastKernelSizes[] = {3, 5,
                                    7};  // cubic kernels with code of their own; every other size takes the general one
constexpr const char* kTorchTarget = "2.11";  // oldest torch that the library runs on (LibTorch stable ABI)

#if defined(CROSSD_VERSION)
constexpr const char* kVersion = CROSSD_VERSION;
#else
constexpr const char* kVersion = "unknown";
#endif

#if defined(CROSSD_CUDA_VERSION)
constexpr const char* kCudaVersion = CROSSD_CUDA_VERSION;
constexpr const char* kCudaArchitectures =
    CROSSD_CUDA_ARCHITECTURES;  // separated by ';': sm_* machine code, compute_* PTX
#else
constexpr const char* kCudaVersion = nullptr;
constexpr const char* kCudaArchitectures = "";
#endif

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

}  // namespace crossd_ops
