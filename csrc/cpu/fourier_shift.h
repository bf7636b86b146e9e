// The Fourier shift on the CPU. Threads: those of torch; results do not depend on their number.
#pragma once
#include "shift_problem.h"

namespace crossd_ops::cpu {

void fourier_shift_forward(const ForwardProblem& problem);
void fourier_shift_backward(const BackwardProblem& problem);

// "avx512", "avx2" or "baseline": the instruction set in use. CROSSD_CPU_CAPABILITY in the environment can lower it.
const char* cpu_capability();

}  // namespace crossd_ops::cpu
