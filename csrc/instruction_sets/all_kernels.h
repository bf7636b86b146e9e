// Every CPU kernel, for one instruction set. Included once in each file of this folder, after its target pragma, inside
// that file's own namespace; each header needs those before it.
#include "common/cpu/simd.h"
#include "common/cpu/element.h"
#include "shift/cpu/tile.h"
#include "shift/cpu/direct.h"
#include "shift/cpu/harmonic3.h"
#include "shift/cpu/kernels.h"
#include "head/cpu/exponential.h"
#include "head/cpu/rotation_kernels.h"
#include "head/cpu/tile.h"
#include "head/cpu/kernels.h"
#include "head/cpu/backward_kernels.h"
#include "convolution/cpu/small_product_kernels.h"
