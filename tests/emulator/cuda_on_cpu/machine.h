// The state of the emulated block: its fibers, its warps, its shared memory.
#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "observer.h"
#include "sanitizers.h"
#include "switch_stack.h"
#include "types.h"

namespace emu::detail {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kLanes = 32;
constexpr size_t kStackSize = 64 * 1024;
constexpr size_t kGuardSize = 4096;

// Where a kernel called a barrier.
struct Site {
  const char* file = "";
  int line = 0;
  EMU_PART bool operator!=(const Site& other) const {
    return line != other.line || (file != other.file && std::strcmp(file, other.file) != 0);
  }
};

enum class State : uint8_t { ready, waits_for_block, waits_for_warp, done };

// A warp operation from the first arrival to the last departure. Lanes of other masks may be at another one meanwhile.
struct WarpOperation {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  uint32_t departed = 0;
  Site site;
  uint64_t value[kLanes];  // what each lane brought
  char tag = 0;            // what TSan orders the lanes by
};

struct Warp {
  // A lane is at one operation at a time, so there are never more of them than lanes.
  WarpOperation operations[kLanes];
  uint32_t in_use = 0;  // a bit for each of them
};

struct Fiber {
  State state = State::done;
  unsigned lane = 0;
  Warp* warp = nullptr;
  uint3 index{};
  Site site;
  char* stack = nullptr;
  StackContext context;
  SanitizerFiber sanitizer;
  void* last_atomic = nullptr;  // the address of the last atomic, which a fence after it makes an acquisition
  bool fenced = false;          // a fence came, which makes the next atomic a release
};

// What the barriers of a block are made of, two in turn: a thread may be at the next barrier before all have left this
// one.
struct BlockBarriers {
  char tags[2] = {};
  int votes[2] = {};
  int phase = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<uint32_t> run_order;
  std::unique_ptr<char[]> dynamic_shared;
  size_t dynamic_shared_bytes = 0;
  std::vector<std::pair<void*, size_t>> poisoned_arrays;
  Fiber launcher;
  Fiber* current = nullptr;
  std::function<void()> body;
  std::string error;  // of the launch that has failed
  bool failed = false;
  bool unwinding = false;
  char start_tag = 0, end_tag = 0;
  std::unique_ptr<BlockBarriers> barriers;
};
inline Machine the_machine;
EMU_PART inline Machine& machine() { return the_machine; }

EMU_OWN inline uint3 thread_index() { return machine().current->index; }

// An EMU_SHARED array: garbage when it is declared, and again at the start of each later block.
struct PoisonedArray {
  PoisonedArray(void* array, size_t bytes) {
    machine().poisoned_arrays.push_back({array, bytes});
    if (observer) observer->shared_array(array, bytes);
    std::memset(array, 0xff, bytes);
  }
};

inline std::string where(const Fiber& fiber) {
  std::ostringstream text;
  text << "thread (" << fiber.index.x << "," << fiber.index.y << "," << fiber.index.z << ") of block (" << blockIdx.x
       << "," << blockIdx.y << "," << blockIdx.z << ")";
  if (fiber.site.line) text << " at " << fiber.site.file << ":" << fiber.site.line;
  return text.str();
}

// Ends a fiber in the middle of the kernel, once the launch has failed. Not an std::exception: no kernel catches it.
struct Unwind {};

EMU_PART inline void switch_to(Fiber& from, Fiber& to) {
  ++statistics.switches;
  from.sanitizer.before_switch_to(to.sanitizer, to.stack, kStackSize);
  switch_stack(from.context, to.context);
  from.sanitizer.after_switch_back();
}

// The calling fiber sleeps until the launcher runs it again.
EMU_PART inline void wait_for_others(Fiber& fiber, State state) {
  fiber.state = state;
  switch_to(fiber, machine().launcher);
  if (machine().unwinding) throw Unwind();
}

// The last that a fiber does for a block. Nothing of it is seen, so that it ends without an IgnoreAccesses in force.
EMU_OWN inline void leave_block() {
  Machine& m = machine();
  Fiber& fiber = *m.current;
  fiber.state = State::done;
  switch_to(fiber, m.launcher);
}

// Never returns: a fiber is used again for the next block and the next launch.
inline void fiber_main() {
  SanitizerFiber::on_first_entry();
  Machine& m = machine();
  for (;;) {
    acquire(&m.start_tag);
    try {
      if (!m.unwinding) m.body();
    } catch (const std::exception& error) {
      m.error = error.what(), m.failed = true;
    } catch (const Unwind&) {
    }
    release(&m.end_tag);
    leave_block();
  }
}

inline void* map_memory(void* at, size_t bytes, int flags = 0) {
  void* memory = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) throw Error("mmap of a fiber's stack failed");
  return memory;
}

// Gives the fiber a stack, once.
inline void prepare(Fiber& fiber) {
  if (fiber.stack) return;
  fiber.stack = static_cast<char*>(map_memory(nullptr, kStackSize));
  mprotect(fiber.stack, kGuardSize, PROT_NONE);  // an overflow is a fault, not a corruption
  fiber.sanitizer.create();
  prepare_stack(fiber.context, fiber.stack, kStackSize, fiber_main);
}

// Makes a thread of its own of a fiber that has left its block, and of its stack one that nobody had.
inline void renew(Fiber& fiber) {
  fiber.sanitizer.destroy(), fiber.sanitizer.create();
  map_memory(fiber.stack + kGuardSize, kStackSize - kGuardSize, MAP_FIXED);
  prepare_stack(fiber.context, fiber.stack, kStackSize, fiber_main);
}

// After a failed launch, which leaves fibers in the middle of the kernel: unwinds them, so that they can be used again.
inline void unwind_fibers() {
  Machine& m = machine();
  m.unwinding = true;
  for (Fiber& fiber : m.fibers) {
    if (fiber.state == State::done) continue;
    m.current = &fiber;
    switch_to(m.launcher, fiber);
  }
  m.unwinding = false;
  acquire(&m.end_tag);
}

}  // namespace emu::detail

// A __shared__ array that starts as NaN in each block, as good as unwritten on the device.
#define EMU_SHARED(type, name, count) \
  static type name[count];            \
  static ::emu::detail::PoisonedArray name##_poisoned(name, sizeof name)
