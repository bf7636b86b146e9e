// Gathers the accesses of each lane, pairs those of a warp into requests, and adds up what the requests cost.
//
// The n-th access of each lane at one instruction since the block's last barrier is one request. That is what the
// device does where the lanes of a warp go the same way; lanes that pass an instruction different numbers of times are
// paired by count, which may join what the device keeps apart: requests that lack lanes are counted, as `partial`.
#pragma once
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "observer.h"
#include "request.h"

namespace meter {

struct Array {  // a tensor in global memory
  std::string name;
  uintptr_t begin, end;
};
constexpr int kShared = -1;  // in place of the index of an array

struct InstructionCounts {
  uint64_t requests = 0, partial = 0, bytes = 0, units = 0, ideal = 0;
  uint32_t size = 0;  // of the largest access of a lane
};
struct ArrayCounts {
  uint64_t bytes = 0;          // asked for by lanes
  uint64_t sectors = 0;        // asked for by requests
  uint64_t block_sectors = 0;  // each counted once for each block: what a cache as large as the tile would let through
  uint64_t distinct_sectors = 0, distinct_bytes = 0;
  std::vector<uint64_t> last_block;  // by sector: the last block that asked for it, from 1
  std::vector<bool> asked;           // by byte
};

struct Source {
  int array;
  bool write;
  const void* instruction;
  bool operator==(const Source& o) const {
    return array == o.array && write == o.write && instruction == o.instruction;
  }
};
struct HashSource {
  size_t operator()(const Source& source) const {
    return reinterpret_cast<uintptr_t>(source.instruction) * 64 + size_t(source.array + 1) * 2 + source.write;
  }
};

struct Launch {
  const void* kernel;
  dim3 grid, block;
  size_t dynamic_shared;
  uint64_t barriers = 0;  // of all blocks
  std::unordered_map<Source, InstructionCounts, HashSource> instructions;
  std::map<std::pair<int, bool>, ArrayCounts> arrays;  // by index, and by whether it is written
};

class Recorder final : public emu::Observer {
 public:
  void start(std::vector<Array> arrays) { arrays_ = std::move(arrays), launches_.clear(), counting_ = true; }
  void stop() { counting_ = false, in_launch_ = false; }
  const std::vector<Array>& arrays() const { return arrays_; }
  const std::vector<Launch>& launches() const { return launches_; }

  void launch_begins(const void* kernel, dim3 grid, dim3 block, const void* shared, size_t bytes) override {
    if (!counting_) return;
    dynamic_shared_ = {reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(shared) + bytes};
    launches_.push_back({kernel, grid, block, bytes, 0, {}, {}});
    pending_.clear(), block_ = 1, in_launch_ = true;
  }
  void shared_array(const void* array, size_t bytes) override {
    const auto begin = reinterpret_cast<uintptr_t>(array);
    static_shared_.push_back({begin, begin + bytes});
  }
  void barrier_opens() override {
    if (in_launch_) count_phase(), ++launches_.back().barriers;
  }
  void block_ends() override {
    if (in_launch_) count_phase(), ++block_;
  }
  void launch_ends() override { in_launch_ = false; }

  void access(size_t thread, uintptr_t address, uint32_t size, bool write, const void* instruction) {
    if (!in_launch_) return;
    const int array = array_at(address);
    if (array == kUnknown) return;
    auto& warps = pending_[{array, write, instruction}];
    const size_t warp = thread / kLanes;
    if (warps.size() <= warp) warps.resize(warp + 1);
    warps[warp][thread % kLanes].push_back({address, size});
  }

 private:
  using Lanes = std::array<std::vector<Access>, kLanes>;  // of a warp, each lane's accesses in its order
  struct Range {
    uintptr_t begin, end;
    bool holds(uintptr_t address) const { return address >= begin && address < end; }
  };
  static constexpr int kUnknown = -2;  // the emulator's own, a stack, parameters of the kernel

  int array_at(uintptr_t address) const {
    if (dynamic_shared_.holds(address)) return kShared;
    for (size_t i = 0; i < arrays_.size(); ++i)
      if (address >= arrays_[i].begin && address < arrays_[i].end) return int(i);
    for (const Range& range : static_shared_)
      if (range.holds(address)) return kShared;
    return kUnknown;
  }

  void count_phase() {
    for (auto& [source, warps] : pending_) {
      for (size_t warp = 0; warp < warps.size(); ++warp) {
        size_t most = 0;
        for (const auto& lane : warps[warp]) most = std::max(most, lane.size());
        for (size_t n = 0; n < most; ++n) count_request(source, warp, warps[warp], n);
        for (auto& lane : warps[warp]) lane.clear();
      }
    }
  }

  void count_request(const Source& source, size_t warp, const Lanes& lanes, size_t n) {
    Launch& launch = launches_.back();
    InstructionCounts& counts = launch.instructions[source];
    Request request;
    unsigned taking_part = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (n >= lanes[lane].size()) continue;
      request[lane] = lanes[lane][n];
      counts.size = std::max(counts.size, request[lane].size);
      ++taking_part;
    }
    const Cost cost = source.array == kShared ? shared_cost(request) : global_cost(request);
    ++counts.requests, counts.bytes += cost.bytes, counts.units += cost.units, counts.ideal += cost.ideal;
    counts.partial += taking_part < std::min<size_t>(kLanes, launch.block.count() - warp * kLanes);
    if (source.array != kShared) count_sectors(launch.arrays[{source.array, source.write}], source.array, request);
  }

  void count_sectors(ArrayCounts& counts, int index, const Request& request) {
    const Array& array = arrays_[index];
    const uintptr_t first = array.begin / kSectorBytes;
    counts.last_block.resize((array.end - 1) / kSectorBytes - first + 1), counts.asked.resize(array.end - array.begin);
    counts.bytes += bytes_asked(request);
    for (const Access& access : request)
      for (uintptr_t at = access.address; at < std::min(access.address + access.size, array.end); ++at)
        counts.distinct_bytes += !counts.asked[at - array.begin], counts.asked[at - array.begin] = true;
    for (const uintptr_t sector : pieces(request.data(), kLanes, kSectorBytes)) {
      uint64_t& last = counts.last_block[sector - first];
      ++counts.sectors, counts.distinct_sectors += last == 0, counts.block_sectors += last != block_;
      last = block_;
    }
  }

  std::vector<Array> arrays_;
  std::vector<Launch> launches_;
  std::unordered_map<Source, std::vector<Lanes>, HashSource> pending_;
  std::vector<Range> static_shared_;
  Range dynamic_shared_{0, 0};
  uint64_t block_ = 1;
  bool counting_ = false, in_launch_ = false;
};

}  // namespace meter
