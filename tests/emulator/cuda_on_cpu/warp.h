// Operations of a warp: __syncwarp, shuffles, votes.
#pragma once
#include <cstring>
#include <type_traits>

#include "machine.h"

namespace emu::detail {

template <typename T>
EMU_PART inline uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>, "a lane exchanges at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
EMU_PART inline T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The operation that the calling lane joins: the one that waits for it under this mask, or a new one. Overlapping masks
// may be open at a time (some lanes are ahead of the others); masks that do not fit together end as a deadlock.
EMU_PART inline WarpOperation& join_operation(const Fiber& fiber, uint32_t mask) {
  const uint32_t lane_bit = 1u << fiber.lane;
  Warp& warp = *fiber.warp;
  for (uint32_t others = warp.in_use; others != 0; others &= others - 1) {
    WarpOperation& operation = warp.operations[__builtin_ctz(others)];
    if (operation.mask != mask || operation.arrived == mask) continue;
    if (operation.site != fiber.site) throw Error(where(fiber) + ": the lanes of a warp are at different operations");
    operation.arrived |= lane_bit;
    return operation;
  }
  const int first_unused = __builtin_ctz(~warp.in_use);
  warp.in_use |= 1u << first_unused;
  WarpOperation& operation = warp.operations[first_unused];
  operation.mask = mask;
  operation.arrived = lane_bit;
  operation.departed = 0;
  operation.site = fiber.site;
  return operation;
}

struct NothingTogether {
  EMU_PART void operator()(const WarpOperation&) const {}
};

// Waits for all lanes of the mask, then hands the values that they brought to `result`. The last lane to arrive does
// what is done once for all, before any of them goes on.
template <typename Result, typename Together = NothingTogether>
EMU_OWN auto warp_operation(uint32_t mask, uint64_t value, Site site, Result&& result, Together&& together = {}) {
  Fiber& fiber = *machine().current;
  fiber.site = site;
  if (!(mask >> fiber.lane & 1)) throw Error(where(fiber) + ": the mask of a warp operation omits the calling lane");
  WarpOperation& operation = join_operation(fiber, mask);
  operation.value[fiber.lane] = value;
  release(&operation.tag);
  if (operation.arrived == mask) {  // the last lane to arrive wakes the others and goes on
    together(operation);
    Fiber* first_lane = &fiber - fiber.lane;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (lane != fiber.lane && mask >> lane & 1) first_lane[lane].state = State::ready;
    }
  } else {
    wait_for_others(fiber, State::waits_for_warp);
  }
  acquire(&operation.tag);
  const auto value_for_lane = result(operation, fiber.lane);
  operation.departed |= 1u << fiber.lane;
  if (operation.departed == mask) fiber.warp->in_use &= ~(1u << (&operation - fiber.warp->operations));
  return value_for_lane;
}

// `source` maps a lane to the one it reads, or to -1 for its own value.
template <typename T, typename Source>
T shuffle(uint32_t mask, T own, Site site, Source&& source) {
  const uint64_t bits =
      warp_operation(mask, to_bits(own), site, [&](const WarpOperation& operation, unsigned lane) EMU_PART {
        const int from = source(int(lane));
        if (from < 0 || from >= int(kLanes)) return operation.value[lane];
        return mask >> from & 1 ? operation.value[from]
                                : ~uint64_t(0);  // a lane that is not in the mask: undefined, NaN here
      });
  return from_bits<T>(bits);
}

}  // namespace emu::detail

#define EMU_CALL_SITE const char *call_file = __builtin_FILE(), int call_line = __builtin_LINE()

inline void __syncwarp(uint32_t mask = 0xffffffffu, EMU_CALL_SITE) {
  emu::detail::warp_operation(mask, 0, {call_file, call_line}, [](const auto&, unsigned) EMU_PART { return 0; });
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = warpSize, EMU_CALL_SITE) {
  return emu::detail::shuffle(mask, value, {call_file, call_line},
                              [=](int lane) EMU_PART { return (lane & ~(width - 1)) + (source & (width - 1)); });
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = warpSize, EMU_CALL_SITE) {
  return emu::detail::shuffle(mask, value, {call_file, call_line}, [=](int lane) EMU_PART {
    const int from = lane ^ lane_mask;
    return from / width > lane / width ? -1 : from;  // an earlier group may be read, a later one not
  });
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = warpSize, EMU_CALL_SITE) {
  return emu::detail::shuffle(mask, value, {call_file, call_line}, [=](int lane) EMU_PART {
    const int from = lane + int(delta);
    return from / width != lane / width ? -1 : from;
  });
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = warpSize, EMU_CALL_SITE) {
  return emu::detail::shuffle(mask, value, {call_file, call_line}, [=](int lane) EMU_PART {
    const int from = lane - int(delta);
    return from < lane / width * width ? -1 : from;
  });
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_CALL_SITE) {
  return emu::detail::warp_operation(mask, predicate != 0, {call_file, call_line},
                                     [=](const auto& operation, unsigned) EMU_PART {
                                       uint32_t votes = 0;
                                       for (unsigned lane = 0; lane < emu::detail::kLanes; ++lane) {
                                         if (mask >> lane & 1 && operation.value[lane]) votes |= 1u << lane;
                                       }
                                       return votes;
                                     });
}
inline int __any_sync(uint32_t mask, int predicate, EMU_CALL_SITE) {
  return __ballot_sync(mask, predicate, call_file, call_line) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, EMU_CALL_SITE) {
  return __ballot_sync(mask, predicate, call_file, call_line) == mask;
}
