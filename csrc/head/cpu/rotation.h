// The rotation head on the CPU. Threads: those of torch; results do not depend on their number.
#pragma once
#include "head/rotation_problem.h"

namespace crossd_ops::cpu {

void rotation_head_forward(RotationHeadForward problem);
void rotation_head_backward(RotationHeadBackward problem);

}  // namespace crossd_ops::cpu
