// Sums over the blocks of a launch by the one that comes last (common/cuda/last_block.cuh), with no order between the
// blocks but that of its ticket: `last_block_check [OPTION...]`, see program.h.
#include <vector>

#include "common/cuda/last_block.cuh"
#include "cuda_on_cpu.h"
#include "program.h"

namespace check {

using namespace crossd_ops::cuda;

struct Case {
  dim3 grid, block;
  std::string name() const {
    return "grid " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + ", block " + std::to_string(block.x) +
           " x " + std::to_string(block.y);
  }
};

unsigned blocks() { return gridDim.x * gridDim.y; }
unsigned threads() { return blockDim.x * blockDim.y; }

__global__ void prepare(unsigned* ticket, unsigned* no_ticket) { reset_ticket(ticket), reset_ticket(no_ticket); }

// partial[block, thread] = thread + 1; out[thread] = 2 sum_block partial[block, thread], as thread 0 writes it twice in
// one launch, by two tickets.
__global__ void sum_twice(unsigned* tickets, unsigned* partial, unsigned* out, unsigned* times) {
  const unsigned thread = threadIdx.x + threadIdx.y * blockDim.x, block = blockIdx.x + blockIdx.y * gridDim.x;
  for (int turn = 0; turn < 2; ++turn) {
    unsigned* of_turn = partial + turn * blocks() * threads();
    of_turn[block * threads() + thread] = thread + 1;
    if (!is_last_block(tickets + turn, blocks())) continue;
    unsigned sum = 0;
    for (unsigned other = 0; other < blocks(); ++other) sum += of_turn[other * threads() + (thread + 1) % threads()];
    out[turn * threads() + thread] = sum, times[turn * threads() + thread] += 1;
  }
}

std::string fault_of(const Case& one, int orders) {
  emu::blocks_are_ordered = false;
  const unsigned grid_blocks = unsigned(one.grid.count()), block_threads = unsigned(one.block.count());
  for (int order = 0; order < orders; ++order) {
    emu::order = emu::Order(order);
    std::vector<unsigned> tickets(2, 7), partial(2 * grid_blocks * block_threads), out(2 * block_threads), times(out);
    for (int launch = 0; launch < 2; ++launch) {
      for (unsigned& ticket : tickets) emu::launch(dim3(2, 1, 2), dim3(2, 2), 0, [&] { prepare(&ticket, nullptr); });
      emu::launch(one.grid, one.block, 0, [&] { sum_twice(tickets.data(), partial.data(), out.data(), times.data()); });
    }
    for (unsigned i = 0; i < 2 * block_threads; ++i) {
      if (out[i] != grid_blocks * ((i + 1) % block_threads + 1)) return "a wrong sum in order " + std::to_string(order);
      if (times[i] != 2) return std::to_string(times[i]) + " last blocks in order " + std::to_string(order);
    }
  }
  return "";
}

}  // namespace check

int main(int count, char** arguments) {
  const check::Case cases[] = {{1, 1}, {2, 64}, {dim3(3, 5), 32}, {dim3(2, 2), dim3(8, 6)}};
  return check::Program(count, arguments).check(cases, check::fault_of);
}
