// Every CPU kernel, for one instruction set. Included once in each kernels_*.cpp, after its target pragma, inside that
// file's own namespace; each header needs those before it.
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "cpu/direct.h"
#include "cpu/harmonic3.h"
#include "cpu/shift_kernels.h"
#include "cpu/exponential.h"
#include "cpu/rotation_head_kernels.h"
#include "cpu/head_tile.h"
#include "cpu/head_kernels.h"
#include "cpu/head_backward_kernels.h"
#include "cpu/small_product_kernels.h"
