// The block of a launch that comes last does what needs the results of all: a launch less. The results are the same
// whichever block it is, as long as it takes those of the others in an order of its own.
//
// Blocks draw tickets, an integer that an earlier launch in the same stream sets to zero: as right with several
// streams, and in a graph that is run again, as any other memory that the stream writes.
#pragma once
#include "common/cuda/device.cuh"

namespace crossd_ops::cuda {

// In the earlier launch, which may be of any grid; null: no ticket is wanted.
__device__ __forceinline__ void reset_ticket(unsigned* ticket) {
  if (ticket && (blockIdx.x | blockIdx.y | blockIdx.z | threadIdx.x | threadIdx.y | threadIdx.z) == 0) *ticket = 0;
}

// Whether the calling block is the last of `blocks` that come here with this ticket, the same for all of its threads:
// or of so many shares, of which each block brings some. They see then what the threads of the other blocks wrote
// before. A barrier of the block. Read what others wrote by plain loads: a read-only one (__ldg, or of a __restrict__
// pointer to const) may be older.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, unsigned blocks, unsigned share = 1) {
  __syncthreads();
  bool is_last = false;
  if ((threadIdx.x | threadIdx.y | threadIdx.z) == 0) {
    __threadfence();  // what the block wrote comes before its ticket, as the barrier makes this thread's fence theirs
    is_last = atomicAdd(ticket, share) == blocks - share;
    __threadfence();  // and what the others wrote, before what this block reads
  }
  return __syncthreads_or(is_last) != 0;
}

}  // namespace crossd_ops::cuda
