// The whole head on the CPU, computed in float32. Threads: those of torch; results do not depend on their number.
#pragma once
#include "head/problem.h"

namespace crossd_ops::cpu {

void head_forward(HeadForward problem);
void head_backward(HeadBackward problem);

}  // namespace crossd_ops::cpu
