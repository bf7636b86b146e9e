"""C++ that the programs of mutants need beside the sources of csrc."""

from __future__ import annotations

MUTANT_HEADER = """
#pragma once
#include <cstdlib>
namespace crossd_ops {
inline const int mutant_in_force = std::getenv("CROSSD_MUTANT") ? std::atoi(std::getenv("CROSSD_MUTANT")) : 0;
}
"""
# One instruction set's kernels in one translation unit, as the program of a check: the CPU's host code, torch left out.
CPU_KERNELS = """
#pragma once
#include "mutant.h"
#include "head/cpu/plan.h"
#include "shift/cpu/plan.h"
#include "head/cpu/rotation_plan.h"
#include "convolution/cpu/small_product.h"
#define CROSSD_VECTOR_BYTES 16
namespace crossd_ops::cpu {
namespace baseline {
namespace {
#include "instruction_sets/all_kernels.h"
}
}
const Kernels* kernels_baseline() { return &baseline::kKernels; }
const Kernels* kernels_avx2() { return nullptr; }
const Kernels* kernels_avx512() { return nullptr; }
const RotationHeadKernels* rotation_head_kernels_baseline() { return &baseline::kRotationHeadKernels; }
const RotationHeadKernels* rotation_head_kernels_avx2() { return nullptr; }
const RotationHeadKernels* rotation_head_kernels_avx512() { return nullptr; }
}
#include "common/cpu/capability.h"
namespace crossd_ops::cpu {
Capability capability() { return Capability::baseline; }
const char* cpu_capability() { return "baseline"; }
}
"""
# What the kernels of the shift want of their host code, where that is not in the program.
SCRATCH = """
#include <new>
namespace crossd_ops::cpu {
void* allocate_scratch(size_t bytes) { return ::operator new(bytes, std::align_val_t(64)); }
void free_scratch(void* memory) { ::operator delete(memory, std::align_val_t(64)); }
}
"""
# In place of the CUDA launchers, so that check_kernels runs the CPU kernels through its cases.
CPU_LAUNCH = """
#pragma once
#include "common/cuda/device.cuh"
namespace crossd_ops::cuda {
inline void launch_forward(const ForwardProblem& problem, cudaStream_t) { cpu::fourier_shift_forward(problem); }
inline void launch_backward(const BackwardProblem& problem, cudaStream_t) { cpu::fourier_shift_backward(problem); }
inline size_t backward_partial_elements(const ShiftShape&) { return 0; }
}
"""
