// Gathers what each lane does, and adds up what the requests of the warps cost: for each launch, by instruction and by
// array.
#pragma once
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "lockstep.h"
#include "observer.h"

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
  uintptr_t instruction;
  bool operator==(const Source& o) const {
    return array == o.array && write == o.write && instruction == o.instruction;
  }
};
struct HashSource {
  size_t operator()(const Source& source) const {
    return source.instruction * 64 + size_t(source.array + 1) * 2 + source.write;
  }
};

struct Launch {
  const void* kernel;
  dim3 grid, block;
  size_t dynamic_shared;
  uint64_t barriers = 0, tensor_instructions = 0;  // of all blocks
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
    launches_.push_back({kernel, grid, block, bytes, 0, 0, {}, {}});
    lanes_.assign(block.count(), {}), bases_.assign(block.count(), 0), block_ = 1, in_launch_ = true;
  }
  void shared_array(const void* array, size_t bytes) override {
    const auto begin = reinterpret_cast<uintptr_t>(array);
    static_shared_.push_back({begin, begin + bytes});
  }
  void barrier_opens() override {
    if (in_launch_) count_phase(), ++launches_.back().barriers;
  }
  void tensor_instruction() override {
    if (in_launch_) ++launches_.back().tensor_instructions;
  }
  void block_ends() override {
    if (in_launch_) count_phase(), bases_.assign(bases_.size(), 0), ++block_;
  }
  void launch_ends() override { in_launch_ = false; }

  // What a thread does, at an instruction and with a stack that ends at `frame`.
  void basic_block(size_t thread, uintptr_t instruction, uintptr_t frame) {
    if (in_launch_) add(thread, instruction, frame, {});
  }
  // A block begins where a thread passes its first barrier, on its own stack.
  void barrier(size_t thread, uintptr_t frame) {
    if (!in_launch_) return;
    if (bases_[thread] == 0) bases_[thread] = frame;
    if (is_of_thread(thread, frame)) lanes_[thread].push_back(Event::barrier());
  }
  void access(size_t thread, Access what, bool write, uintptr_t instruction, uintptr_t frame) {
    const int array = in_launch_ ? array_at(what.address) : kUnknown;
    if (array != kUnknown) add(thread, instruction, frame, {0, what, array, write});
  }

 private:
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

  // What the emulator does on the stack of the code that launches, on the way from one thread to the next, is none of
  // the thread's.
  bool is_of_thread(size_t thread, uintptr_t frame) const {
    return bases_[thread] >= frame && bases_[thread] - frame < Event::kStackBytes;
  }
  void add(size_t thread, uintptr_t instruction, uintptr_t frame, Event event) {
    if (!is_of_thread(thread, frame)) return;
    event.turn = Event::turn_of(instruction, bases_[thread] - frame);
    lanes_[thread].push_back(event);
  }

  void count_phase() {
    for (size_t first = 0; first < lanes_.size(); first += kLanes) {
      const auto count = unsigned(std::min<size_t>(kLanes, lanes_.size() - first));
      in_lockstep(&lanes_[first], count,
                  [&](const Event& event, const Request& request) { count_request(event, request, count); });
    }
    for (auto& events : lanes_) events.clear();
  }

  void count_request(const Event& source, const Request& request, unsigned lanes) {
    Launch& launch = launches_.back();
    InstructionCounts& counts = launch.instructions[{source.array, source.write, source.instruction()}];
    unsigned taking_part = 0;
    for (const Access& access : request)
      counts.size = std::max(counts.size, access.size), taking_part += access.size > 0;
    const Cost cost = source.array == kShared ? shared_cost(request) : global_cost(request);
    ++counts.requests, counts.bytes += cost.bytes, counts.units += cost.units, counts.ideal += cost.ideal;
    counts.partial += taking_part < lanes;
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
  std::vector<std::vector<Event>> lanes_;  // by thread, since the block's last barrier
  std::vector<uintptr_t> bases_;           // by thread, where its stack was when the block began
  std::vector<Range> static_shared_;
  Range dynamic_shared_{0, 0};
  uint64_t block_ = 1;
  bool counting_ = false, in_launch_ = false;
};

}  // namespace meter
