// Runs a grid: emu::launch and __syncthreads.
#pragma once
#include <algorithm>
#include <numeric>
#include <random>

#include "machine.h"

namespace emu {
namespace detail {

// The threads of the block that bring `vote`.
EMU_OWN inline int block_barrier(Site site, bool vote = false) {
  Machine& m = machine();
  Fiber& fiber = *m.current;
  fiber.site = site;
  BlockBarriers& barriers = *m.barriers;
  const int phase = barriers.phase;
  barriers.votes[phase] += vote;
  release(&barriers.tags[phase]);
  wait_for_others(fiber, State::waits_for_block);
  acquire(&barriers.tags[phase]);
  return barriers.votes[phase];
}

// Gives the block what no other has had before it, so that nothing orders their threads.
inline void part_from_other_blocks(size_t threads) {
  Machine& m = machine();
  m.dynamic_shared.reset(new char[m.dynamic_shared_bytes]);
  m.barriers = std::make_unique<BlockBarriers>();
  m.warps = std::vector<Warp>(m.warps.size());
  for (size_t t = 0; t < threads; ++t)
    if (m.fibers[t].stack) renew(m.fibers[t]);
}

EMU_OWN inline void start_block(size_t threads) {
  Machine& m = machine();
  Fiber* const fibers = m.fibers.data();
  Warp* const warps = m.warps.data();
  for (size_t t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    prepare(fiber);
    fiber.state = State::ready;
    fiber.site = {};
    fiber.last_atomic = nullptr, fiber.fenced = false;
    fiber.lane = unsigned(t % kLanes);
    fiber.warp = &warps[t / kLanes];
    fiber.index = {unsigned(t % blockDim.x), unsigned(t / blockDim.x % blockDim.y),
                   unsigned(t / blockDim.x / blockDim.y)};
  }
}

EMU_OWN inline bool run_ready_fibers(size_t threads) {
  Machine& m = machine();
  Fiber* const fibers = m.fibers.data();
  const uint32_t* const order = m.run_order.data();
  bool progress = false;
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[order[i]];
    if (fiber.state != State::ready) continue;
    progress = true;
    m.current = &fiber;
    switch_to(m.launcher, fiber);
    if (m.failed) throw Error(m.error);
  }
  return progress;
}

// No fiber can go on: the block has finished (false), or all of it stands at one barrier, which opens (true).
EMU_OWN inline bool open_block_barrier(size_t threads) {
  Machine& m = machine();
  Fiber* const fibers = m.fibers.data();
  size_t done = 0;
  const Fiber* first = nullptr;
  for (size_t t = 0; t < threads; ++t) {
    const Fiber& fiber = fibers[t];
    if (fiber.state == State::done) {
      ++done;
    } else if (fiber.state == State::waits_for_warp) {
      throw Error("deadlock: " + where(fiber) + " waits at a warp operation that not all lanes of its mask reach");
    } else if (!first) {
      first = &fiber;
    } else if (fiber.site != first->site) {
      throw Error("divergent barrier: " + where(fiber) + " and " + where(*first) +
                  " wait at different __syncthreads()");
    }
  }
  if (done == threads) return false;
  if (done) {
    throw Error("divergent barrier: " + where(*first) + " waits at a __syncthreads() that " + std::to_string(done) +
                " threads have passed by returning");
  }
  for (size_t t = 0; t < threads; ++t) fibers[t].state = State::ready;
  BlockBarriers& barriers = *m.barriers;
  barriers.phase ^= 1, barriers.votes[barriers.phase] = 0;
  if (observer) observer->barrier_opens();
  return true;
}

inline void run_block(size_t threads, std::mt19937_64& random) {
  Machine& m = machine();
  start_block(threads);
  do {
    if (order == Order::random) std::shuffle(m.run_order.begin(), m.run_order.end(), random);
    while (run_ready_fibers(threads)) {
    }
  } while (open_block_barrier(threads));
}

inline void check_configuration(dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  if (grid.count() == 0 || block.count() == 0) throw Error("invalid launch configuration: an empty grid or block");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error("invalid launch configuration: grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                " x " + std::to_string(grid.z) + " blocks");
  }
  if (block.count() > kMaxThreads || block.z > 64) {
    throw Error("invalid launch configuration: " + std::to_string(block.count()) + " threads in a block");
  }
  if (dynamic_shared_bytes > dynamic_shared_limit) {
    throw Error("invalid launch configuration: " + std::to_string(dynamic_shared_bytes) +
                " bytes of dynamic shared memory, limit " + std::to_string(dynamic_shared_limit));
  }
}

// A block of exactly this size, so that AddressSanitizer sees its end.
inline void allocate_dynamic_shared(size_t bytes) {
  Machine& m = machine();
  if (m.dynamic_shared_bytes == bytes && m.dynamic_shared) return;
  m.dynamic_shared.reset(new char[bytes]);  // 16-byte aligned, and no more is to be relied on
  m.dynamic_shared_bytes = bytes;
}

inline void set_up_launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  Machine& m = machine();
  m.failed = false;
  m.fibers.resize(kMaxThreads);
  m.warps.assign((block.count() + kLanes - 1) / kLanes, {});
  m.barriers = std::make_unique<BlockBarriers>();
  m.run_order.resize(block.count());
  std::iota(m.run_order.begin(), m.run_order.end(), 0u);
  if (order == Order::reverse) std::reverse(m.run_order.begin(), m.run_order.end());
  gridDim = grid;
  blockDim = block;
  m.launcher.sanitizer.adopt_current();
  allocate_dynamic_shared(dynamic_shared_bytes);
  ++statistics.launches;
  statistics.largest_dynamic_shared = std::max(statistics.largest_dynamic_shared, dynamic_shared_bytes);
}

inline void poison_shared_memory() {
  Machine& m = machine();
  std::memset(m.dynamic_shared.get(), 0xff, m.dynamic_shared_bytes);
  for (const auto& [array, bytes] : m.poisoned_arrays) std::memset(array, 0xff, bytes);
}

}  // namespace detail

// Runs body() once for each CUDA thread of the grid. `kernel` is what it calls, for the observer.
template <typename Body, typename... Parameters>
void launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, Body&& body, void (*kernel)(Parameters...) = nullptr) {
  detail::Machine& m = detail::machine();
  detail::check_configuration(grid, block, dynamic_shared_bytes);
  detail::set_up_launch(grid, block, dynamic_shared_bytes);
  m.body = std::ref(body);
  if (observer) {
    observer->launch_begins(reinterpret_cast<const void*>(kernel), grid, block, m.dynamic_shared.get(),
                            dynamic_shared_bytes);
  }
  const bool part_blocks = detail::kFindsRaces && !blocks_are_ordered;
  std::mt19937_64 random(seed);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        ++statistics.blocks;
        try {
          detail::IgnoreAccesses ignore;
          blockIdx = {x, y, z};
          if (part_blocks) detail::part_from_other_blocks(block.count());
          detail::poison_shared_memory();
          detail::release(&m.start_tag);
          detail::run_block(block.count(), random);
        } catch (...) {
          detail::IgnoreAccesses ignore;
          detail::unwind_fibers();
          throw;
        }
        if (!part_blocks) detail::acquire(&m.end_tag);
        if (observer) observer->block_ends();
      }
    }
  }
  detail::acquire(&m.end_tag);
  if (observer) observer->launch_ends();
}

inline void* dynamic_shared() { return detail::machine().dynamic_shared.get(); }

}  // namespace emu

inline void __syncthreads(const char* call_file = __builtin_FILE(), int call_line = __builtin_LINE()) {
  emu::detail::block_barrier({call_file, call_line});
}
// Whether any thread of the block brings something else than 0.
inline int __syncthreads_or(int predicate, const char* call_file = __builtin_FILE(), int call_line = __builtin_LINE()) {
  return emu::detail::block_barrier({call_file, call_line}, predicate != 0) != 0;
}
