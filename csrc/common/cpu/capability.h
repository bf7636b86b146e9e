// The instruction set that the CPU kernels use, chosen once in a process.
#pragma once

namespace crossd_ops::cpu {

enum class Capability : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The best of this processor; CROSSD_CPU_CAPABILITY=baseline|avx2|avx512 in the environment can lower it; any
// other value throws std::invalid_argument.
Capability capability();

const char* cpu_capability();  // its name

template <typename Kernels>
const Kernels& kernels_in_use(const Kernels* baseline, const Kernels* avx2, const Kernels* avx512) {
  const Kernels* of[] = {baseline, avx2, avx512};
  return *of[static_cast<int>(capability())];
}

}  // namespace crossd_ops::cpu
