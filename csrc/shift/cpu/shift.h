// The Fourier shift on the CPU. Threads: those of torch; results do not depend on their number.
#pragma once
#include "shift/problem.h"

namespace crossd_ops::cpu {

void fourier_shift_forward(const ForwardProblem& problem);
void fourier_shift_backward(const BackwardProblem& problem);

}  // namespace crossd_ops::cpu
