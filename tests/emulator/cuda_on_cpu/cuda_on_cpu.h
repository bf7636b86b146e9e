// Runs CUDA kernel source, compiled as plain C++17, on one CPU core, for tests.
//
// Every CUDA thread is a fiber; blocks run one after the other. A fiber runs until it reaches a barrier (__syncthreads,
// __syncwarp, a shuffle or a vote) or returns. What is found, and how:
//   * a __syncthreads() that not all threads of the block reach, or that they reach at different places; a warp
//   operation
//     whose mask names lanes that never arrive, or omits the caller; an invalid launch configuration: emu::Error.
//     Stricter than the device, which forgives threads that have returned.
//   * a missing barrier: the result depends on emu::order; and under -fsanitize=thread, where each fiber is a thread of
//   its
//     own and only barriers order them, it is a data race, even where the result happens to be right.
//   * an access out of bounds: -fsanitize=address. A misaligned wide access: -fsanitize=alignment.
//   * shared memory read before it is written: dynamic shared memory and EMU_SHARED arrays are NaN at the start of a
//   block.
//   * a missing fence, or whatever else makes a block depend on another one: under -fsanitize=thread it is a data race
//     too, where emu::blocks_are_ordered is false.
//
// Not modelled: memory ordering but that, progress between barriers, speed, inline PTX, textures. Not thread-safe: one
// launch at a time in a process.
#pragma once
#include "intrinsics.h"
#include "launch.h"
#include "tensor_core.h"
#include "types.h"
#include "warp.h"
