// Checks of the emulator's own tests: a failed one is printed and counted, main returns the count.
#pragma once
#include <cstdio>
#include <string>

#include "cuda_on_cpu.h"

inline int failures = 0;

inline void check(bool holds, const char* what, int line) {
  if (holds) return;
  std::printf("line %d, order %d: %s\n", line, int(emu::order), what);
  ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__)

inline constexpr emu::Order kOrders[] = {emu::Order::forward, emu::Order::reverse, emu::Order::random};
