// Lays out the work and runs it on torch's threads.
#include "shift/cpu/shift.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <new>
#include <vector>

#include "common/cpu/capability.h"
#include "common/cpu/huge_pages.h"
#include "shift/cpu/plan.h"
#include "shift/cpu/taps.h"

namespace crossd_ops::cpu {

void* allocate_scratch(size_t bytes) { return ::operator new(bytes, std::align_val_t(64)); }
void free_scratch(void* memory) { ::operator delete(memory, std::align_val_t(64)); }

namespace {

const Kernels& kernels() { return kernels_in_use(kernels_baseline(), kernels_avx2(), kernels_avx512()); }

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Describes a tensor's kernel elements; owns the tables that Rows points to.
class RowTable {
 public:
  RowTable(void* data, Dtype dtype, const ShiftShape& shape, int slices, int64_t sample, int64_t out_channel,
           int64_t in_channel, const int64_t* kernel_strides) {
    const int count = slices * shape.kernel[1] * shape.kernel[2];
    offset_.reserve(count);
    for (int x = 0; x < slices; ++x)
      for (int y = 0; y < shape.kernel[1]; ++y)
        for (int z = 0; z < shape.kernel[2]; ++z)
          offset_.push_back(x * kernel_strides[0] + y * kernel_strides[1] + z * kernel_strides[2]);
    row_at_.assign(count, -1);
    bool dense = (shape.in_channels <= 1 || in_channel == count) &&
                 (shape.out_channels <= 1 || out_channel == count * shape.in_channels);
    for (int row = 0; row < count && dense; ++row) {
      dense = offset_[row] >= 0 && offset_[row] < count && row_at_[offset_[row]] < 0;
      if (dense) row_at_[offset_[row]] = row;
    }
    rows_ = {data, dtype, count, sample, out_channel, in_channel, offset_.data(), dense, row_at_.data()};
  }
  RowTable(const void* data, Dtype dtype, const ShiftShape& shape, const WeightStrides& strides)
      : RowTable(const_cast<void*>(data), dtype, shape, shape.kernel[0], 0, strides.out_channel, strides.in_channel,
                 strides.kernel) {}
  RowTable(const RowTable&) = delete;
  const Rows& rows() const { return rows_; }

 private:
  std::vector<int64_t> offset_;
  std::vector<int32_t> row_at_;
  Rows rows_;
};

// Vector multiply-adds below which a second thread costs more than it brings (about 10 microseconds).
constexpr int64_t kWorthAThread = 20000;

int64_t multiply_adds(const ShiftShape& shape) {
  return int64_t{3} * shape.kernel[0] * shape.kernel[1] * shape.kernel[2] * shape.slices;
}

template <typename Acc>
void run_forward(const ForwardProblem& problem, int lanes, void (*kernel)(const ForwardPlan<Acc>&, int64_t, int64_t)) {
  const ShiftShape& shape = problem.shape;
  const int64_t pairs = shape.out_channels * shape.in_channels, plane = int64_t{1} * shape.kernel[1] * shape.kernel[2];
  if (pairs == 0 || shape.samples == 0) return;
  const int64_t row_count = shape.slices * plane;
  const int64_t of_pair = problem.tap_major ? 1 : row_count, of_tap = problem.tap_major ? pairs : 1;
  const int64_t out_strides[3] = {plane * of_tap, shape.kernel[2] * of_tap, of_tap};
  const TapTable<Acc> taps(shape, problem.shift, false);
  const RowTable weight(problem.weight, problem.weight_dtype, shape, problem.weight_strides);
  const RowTable out(problem.out, problem.out_dtype, shape, shape.slices, pairs * row_count,
                     shape.in_channels * of_pair, of_pair, out_strides);
  advise_huge_pages(problem.out, size_of(problem.out_dtype) * shape.samples * pairs * row_count);
  // Samples are split only where the pairs alone would not give every thread of a large machine something to do.
  const int64_t tiles = ceil_divide(pairs, lanes), groups = std::min(shape.samples, ceil_divide(128, tiles));
  const int64_t samples_per_item = ceil_divide(shape.samples, groups);
  const ForwardPlan<Acc> plan{shape, taps.taps(), taps.harmonics(), weight.rows(), out.rows(), pairs, samples_per_item};
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / (samples_per_item * multiply_adds(shape)));
  torch::stable::parallel_for(0, tiles * ceil_divide(shape.samples, samples_per_item), grain,
                              [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
}

template <typename Acc>
void run_backward(const BackwardProblem& problem, void (*kernel)(const BackwardPlan<Acc>&, int64_t, int64_t)) {
  const ShiftShape& shape = problem.shape;
  const int64_t pairs = shape.out_channels * shape.in_channels, samples = shape.samples;
  // 256 chunks or more wherever there are pairs enough: even shares for many threads, few partial sums.
  const int64_t pairs_per_chunk = std::clamp<int64_t>(ceil_divide(ceil_divide(pairs, 256), 16) * 16, 16, 1024);
  const int64_t chunks = ceil_divide(pairs, pairs_per_chunk);
  const TapTable<Acc> taps(shape, problem.shift, true);
  const RowTable weight(problem.weight, problem.weight_dtype, shape, problem.weight_strides);
  const RowTable grad_weight(problem.grad_weight, problem.weight_dtype, shape, problem.grad_weight_strides);
  const GradStrides& g = problem.grad_strides;
  const RowTable grad(const_cast<void*>(problem.grad), problem.grad_dtype, shape, shape.slices, g.sample, g.out_channel,
                      g.in_channel, g.kernel);
  if (problem.grad_weight)
    advise_huge_pages(problem.grad_weight, size_of(problem.weight_dtype) * pairs * weight.rows().count);
  std::vector<double> partial(problem.grad_shift ? chunks * samples * 3 : 0);
  const BackwardPlan<Acc> plan{shape,       taps.taps(),     taps.harmonics(),
                               grad.rows(), weight.rows(),   grad_weight.rows(),
                               pairs,       pairs_per_chunk, problem.grad_shift ? partial.data() : nullptr};
  const int64_t tiles_per_chunk = ceil_divide(pairs_per_chunk, 16);
  const int64_t work = std::max<int64_t>(1, tiles_per_chunk * samples * 3 * multiply_adds(shape));
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / work);
  torch::stable::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
  if (!problem.grad_shift) return;
  for (int64_t i = 0; i < samples * 3; ++i) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * samples * 3 + i];
    static_cast<Acc*>(problem.grad_shift)[i / 3 * 3 + shape.axis[i % 3]] = static_cast<Acc>(sum);
  }
}

}  // namespace

void fourier_shift_forward(const ForwardProblem& problem) {
  const Kernels& chosen = kernels();
  if (problem.weight_dtype == Dtype::float64)
    return run_forward<double>(problem, chosen.lanes_float64, chosen.forward_float64);
  run_forward<float>(problem, chosen.lanes_float32, chosen.forward_float32);
}

void fourier_shift_backward(const BackwardProblem& problem) {
  const Kernels& chosen = kernels();
  if (problem.weight_dtype == Dtype::float64) return run_backward<double>(problem, chosen.backward_float64);
  run_backward<float>(problem, chosen.backward_float32);
}

}  // namespace crossd_ops::cpu
