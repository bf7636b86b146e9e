// What one request costs: the accesses that the lanes of a warp make together, at one instruction.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace meter {

constexpr unsigned kLanes = 32;
constexpr unsigned kSectorBytes = 32;
constexpr unsigned kBanks = 32, kWordBytes = 4;

struct Access {
  uintptr_t address = 0;
  uint32_t size = 0;  // 0: the lane takes no part
};
using Request = std::array<Access, kLanes>;

struct Cost {
  uint64_t bytes;         // asked for by all lanes
  uint64_t units, ideal;  // sectors or wavefronts, and those that the distinct bytes would fill
};

// The pieces of `unit` bytes that the lanes touch, each once and in order.
inline std::vector<uintptr_t> pieces(const Access* lanes, unsigned count, unsigned unit) {
  std::vector<uintptr_t> result;
  for (const Access* access = lanes; access < lanes + count; ++access)
    if (access->size > 0)
      for (uintptr_t piece = access->address / unit; piece <= (access->address + access->size - 1) / unit; ++piece)
        result.push_back(piece);
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

inline uint64_t bytes_asked(const Request& request) {
  uint64_t bytes = 0;
  for (const Access& access : request) bytes += access.size;
  return bytes;
}

inline uint64_t distinct_bytes(Request request) {
  std::sort(request.begin(), request.end(), [](Access a, Access b) { return a.address < b.address; });
  uint64_t bytes = 0;
  uintptr_t seen = 0;
  for (const Access& access : request) {
    const uintptr_t from = std::max(access.address, seen), to = access.address + access.size;
    if (to > from) bytes += to - from, seen = to;
  }
  return bytes;
}

inline Cost global_cost(const Request& request) {
  return {bytes_asked(request), pieces(request.data(), kLanes, kSectorBytes).size(),
          (distinct_bytes(request) + kSectorBytes - 1) / kSectorBytes};
}

// The most words that one bank has to give; each takes a turn.
inline unsigned turns(const std::vector<uintptr_t>& words) {
  unsigned of_bank[kBanks] = {}, most = 0;
  for (const uintptr_t word : words) most = std::max(most, ++of_bank[word % kBanks]);
  return most;
}

// A group of lanes, of at most 128 bytes, is served at a time. Neighbouring groups that together want no bank twice go
// as one: 16 bytes that all lanes read are one wavefront, as microbenchmarks of the devices have it.
inline Cost shared_cost(const Request& request) {
  uint32_t size = kWordBytes;
  for (const Access& access : request) size = std::max(size, access.size);
  const unsigned group = std::max(kLanes * kWordBytes / size, 1u);
  Cost cost{bytes_asked(request), 0, 0};
  std::vector<uintptr_t> words;
  for (unsigned lane = 0; lane < kLanes; lane += group) {
    const std::vector<uintptr_t> next = pieces(&request[lane], group, kWordBytes);
    std::vector<uintptr_t> both;
    std::set_union(words.begin(), words.end(), next.begin(), next.end(), std::back_inserter(both));
    if (turns(both) > 1) cost.units += turns(words), both = next;
    words = both;
  }
  cost.units += turns(words);
  cost.ideal = (distinct_bytes(request) + kBanks * kWordBytes - 1) / (kBanks * kWordBytes);
  return cost;
}

}  // namespace meter
