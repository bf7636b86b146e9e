// Chooses the instruction set of the product.
#include "convolution/cpu/small_product.h"

#include "common/cpu/capability.h"

namespace crossd_ops::cpu {
namespace {

const ProductKernels& kernels() {
  return kernels_in_use(product_kernels_baseline(), product_kernels_avx2(), product_kernels_avx512());
}

}  // namespace

void multiply(const SmallProduct<float>& product) { kernels().multiply_float32(product); }
void multiply(const SmallProduct<double>& product) { kernels().multiply_float64(product); }

}  // namespace crossd_ops::cpu
