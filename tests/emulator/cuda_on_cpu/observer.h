// Who is told what the emulator does: the meter, which counts for each launch and each phase of a block.
#pragma once
#include "types.h"

namespace emu {

struct Observer {
  virtual void launch_begins(const void* kernel, dim3 grid, dim3 block, const void* dynamic_shared, size_t bytes) = 0;
  virtual void shared_array(const void* array, size_t bytes) = 0;  // of EMU_SHARED, when it is first declared
  virtual void barrier_opens() = 0;                                // of the block
  virtual void tensor_instruction() = 0;                           // mma, of a warp
  virtual void block_ends() = 0;
  virtual void launch_ends() = 0;

 protected:
  ~Observer() = default;
};
inline Observer* observer = nullptr;

}  // namespace emu
