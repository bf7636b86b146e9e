// Puts the lanes of a warp together again. The emulator runs each by itself, from barrier to barrier; the device runs
// them in lockstep, and those that branch apart meet again where their ways do.
//
// Of the lanes' next events the one deepest in calls goes first, of those the one at the lowest address; all lanes that
// have the same next event go with it. With code in the order of the source that is where the ways meet: lanes that
// left a loop, or passed by a branch, are ahead and wait. It remains a model of the device.
#pragma once
#include <vector>

#include "request.h"

namespace meter {

struct Event {
  enum Kind { basic_block, access, barrier };  // barrier: of the warp
  Kind kind;
  uintptr_t instruction;
  uintptr_t depth;  // of the stack
  int array;
  bool write;
  Access what;

  bool goes_before(const Event& other) const {
    if ((kind == barrier) != (other.kind == barrier)) return other.kind == barrier;  // it opens when all are there
    if (depth != other.depth) return depth > other.depth;
    return instruction < other.instruction;
  }
  bool goes_with(const Event& other) const {
    if (kind == barrier) return other.kind == barrier;
    return kind == other.kind && depth == other.depth && instruction == other.instruction && array == other.array;
  }
};

// Calls request(event, accesses) for what lanes ask together; `event` is that of one of them.
template <typename Function>
void in_lockstep(const std::vector<Event>* lanes, unsigned count, Function&& request) {
  size_t next[kLanes] = {};
  for (;;) {
    const Event* first = nullptr;
    for (unsigned lane = 0; lane < count; ++lane) {
      if (next[lane] == lanes[lane].size()) continue;
      const Event& event = lanes[lane][next[lane]];
      if (!first || event.goes_before(*first)) first = &event;
    }
    if (!first) return;
    Request accesses;
    for (unsigned lane = 0; lane < count; ++lane) {
      if (next[lane] == lanes[lane].size()) continue;
      const Event& event = lanes[lane][next[lane]];
      if (event.goes_with(*first)) accesses[lane] = event.what, ++next[lane];
    }
    if (first->kind == Event::access) request(*first, accesses);
  }
}

}  // namespace meter
