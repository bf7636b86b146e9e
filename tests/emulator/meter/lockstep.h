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

// What decides who goes first is one number, the least of which does: there are many events.
struct Event {
  static constexpr int kNoArray = -3;  // of a basic block, or a barrier
  static constexpr uint64_t kBarrier = uint64_t{1} << 63, kNone = ~uint64_t{0};
  static constexpr uintptr_t kStackBytes = 64 * 1024;  // at least what the emulator gives a thread
  static constexpr int kAddressBits = 47;

  uint64_t turn;
  Access what;
  int array = kNoArray;
  bool write = false;

  // Of the warp: it opens when all lanes are there.
  static Event barrier() { return {kBarrier, {}}; }
  // depth: of the stack.
  static uint64_t turn_of(uintptr_t instruction, uintptr_t depth) {
    return (kStackBytes - 1 - depth) << kAddressBits | instruction;
  }
  uintptr_t instruction() const { return turn & ((uint64_t{1} << kAddressBits) - 1); }
};

// Calls request(event, accesses) for what lanes ask together; `event` is that of one of them.
template <typename Function>
void in_lockstep(const std::vector<Event>* lanes, unsigned count, Function&& request) {
  const Event* next[kLanes];
  uint64_t turns[kLanes];
  std::fill_n(turns, kLanes, Event::kNone);
  for (unsigned lane = 0; lane < count; ++lane) {
    next[lane] = lanes[lane].data();
    if (!lanes[lane].empty()) turns[lane] = next[lane]->turn;
  }
  const auto pass = [&](unsigned lane) {
    ++next[lane];
    turns[lane] = next[lane] == lanes[lane].data() + lanes[lane].size() ? Event::kNone : next[lane]->turn;
  };
  for (;;) {
    const unsigned first = unsigned(std::min_element(turns, turns + kLanes) - turns);
    const uint64_t turn = turns[first];
    if (turn == Event::kNone) return;
    const Event& event = *next[first];
    if (event.array == Event::kNoArray) {
      uint64_t others = Event::kNone;
      unsigned passed = 0;
      for (unsigned lane = 0; lane < count; ++lane)
        if (turns[lane] == turn)
          pass(lane), ++passed;
        else
          others = std::min(others, turns[lane]);
      // One lane often goes on alone: it does in the emulator what an instruction of all lanes does.
      while (passed == 1 && turns[first] < others && next[first]->array == Event::kNoArray) pass(first);
      continue;
    }
    Request accesses;
    for (unsigned lane = first; lane < count; ++lane)
      if (turns[lane] == turn && next[lane]->array == event.array) accesses[lane] = next[lane]->what, pass(lane);
    request(event, accesses);
  }
}

}  // namespace meter
