#include "common/cpu/capability.h"

#include <exception>
#include <optional>
#include <string>

#include "common/environment.h"

namespace crossd_ops::cpu {
namespace {

Capability detect() {
  const std::optional<int> wanted = chosen_in_environment("CROSSD_CPU_CAPABILITY", {"baseline", "avx2", "avx512"});
  const Capability limit = wanted ? static_cast<Capability>(*wanted) : Capability::avx512;
#if defined(__x86_64__)
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && limit == Capability::avx512) return Capability::avx512;
  if (has_avx2 && limit != Capability::baseline) return Capability::avx2;
#endif
  return Capability::baseline;
}

}  // namespace

Capability capability() {
  static const Capability detected = detect();
  return detected;
}

const char* cpu_capability() {
  constexpr const char* names[] = {"baseline", "avx2", "avx512"};
  return names[static_cast<int>(capability())];
}

}  // namespace crossd_ops::cpu

// For crossd_ops/library/loaded.py, which reads it with ctypes: the name, or after "!" what is wrong with the
// environment.
extern "C" __attribute__((visibility("default"))) const char* crossd_ops_cpu_capability() {
  try {
    return crossd_ops::cpu::cpu_capability();
  } catch (const std::exception& error) {
    static const std::string refusal = std::string("!") + error.what();
    return refusal.c_str();
  }
}
