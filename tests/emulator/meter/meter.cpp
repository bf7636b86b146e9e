// The run-time half of -fsanitize=thread, replaced: the compiler calls __tsan_read4(address) and its like before every
// access of the instrumented kernels, and the emulator names its fibers by the same interface. Here the calls count
// what is asked of memory, instead of looking for races. This file itself is compiled without the option, and the
// library is linked without the sanitizer's own run-time. -fsanitize-coverage=trace-pc tells of each basic block, by
// which the lanes of a warp are put together again.
#include <dlfcn.h>

#include <sstream>
#include <string>

#include "recorder.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

size_t current_thread = 0;  // of the block, from 1; 0: the code that launches
size_t threads_known = 0;

meter::Recorder& recorder() {
  static meter::Recorder instance;
  return instance;
}
const bool observes = (emu::observer = &recorder(), true);

struct Caller {  // of the function that the compiler has put a call of in
  uintptr_t instruction, frame;
};
#define CALLER                                                                                                        \
  Caller {                                                                                                            \
    reinterpret_cast<uintptr_t>(__builtin_return_address(0)), reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) \
  }

void note(const void* address, uint32_t size, bool write, Caller caller) {
  if (current_thread == 0) return;
  recorder().access(current_thread - 1, {reinterpret_cast<uintptr_t>(address), size}, write, caller.instruction,
                    caller.frame);
}

// A copy of a struct that no instruction moves at once: word by word.
void note_range(const char* address, size_t bytes, bool write, Caller caller) {
  for (size_t at = 0; at < bytes; at += meter::kWordBytes)
    note(address + at, uint32_t(std::min<size_t>(bytes - at, meter::kWordBytes)), write, caller);
}

void note_barrier(Caller caller) {
  if (current_thread > 0) recorder().barrier(current_thread - 1, caller.frame);
}

uintptr_t in_library(uintptr_t address) {
  Dl_info library{};
  dladdr(reinterpret_cast<const void*>(&in_library), &library);
  return address - reinterpret_cast<uintptr_t>(library.dli_fbase);
}

}  // namespace

#define NOTE_ACCESSES(size)                                                               \
  void __tsan_read##size(void* address) { note(address, size, false, CALLER); }           \
  void __tsan_write##size(void* address) { note(address, size, true, CALLER); }           \
  void __tsan_unaligned_read##size(void* address) { note(address, size, false, CALLER); } \
  void __tsan_unaligned_write##size(void* address) { note(address, size, true, CALLER); }

extern "C" {
NOTE_ACCESSES(1)
NOTE_ACCESSES(2)
NOTE_ACCESSES(4)
NOTE_ACCESSES(8)
NOTE_ACCESSES(16)
void __tsan_read_range(char* address, unsigned long bytes) { note_range(address, bytes, false, CALLER); }
void __tsan_write_range(char* address, unsigned long bytes) { note_range(address, bytes, true, CALLER); }

// The emulator makes a fiber for each thread of a block, in their order.
void* __tsan_create_fiber(unsigned) { return reinterpret_cast<void*>(++threads_known); }
void* __tsan_get_current_fiber() { return nullptr; }
void __tsan_switch_to_fiber(void* fiber, unsigned) { current_thread = reinterpret_cast<size_t>(fiber); }

// Where a thread arrives after a barrier, of the warp or of the block.
void __tsan_acquire(void*) { note_barrier(CALLER); }
void __sanitizer_cov_trace_pc() {
  const Caller caller = CALLER;
  if (current_thread > 0) recorder().basic_block(current_thread - 1, caller.instruction, caller.frame);
}

// Of no concern here: calls, virtual tables, atomics of the emulator's own.
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_release(void*) {}
void __tsan_destroy_fiber(void*) {}
void __tsan_ignore_thread_begin() {}
void __tsan_ignore_thread_end() {}
void __tsan_atomic_signal_fence(int) {}
char __tsan_atomic8_load(const volatile char* address, int) { return *address; }
}

EXPORT void meter_start(int count, const char** names, const uintptr_t* begins, const uintptr_t* bytes) {
  std::vector<meter::Array> arrays;
  for (int i = 0; i < count; ++i) arrays.push_back({names[i], begins[i], begins[i] + bytes[i]});
  recorder().start(arrays);
}

// What has been counted since meter_start, in lines of fields between tabs; metering.py has their order.
EXPORT const char* meter_stop() {
  static std::string text;
  std::ostringstream out;
  recorder().stop();
  const auto name = [](int array) { return array == meter::kShared ? "shared" : recorder().arrays()[array].name; };
  for (const meter::Launch& launch : recorder().launches()) {
    out << "launch\t" << in_library(reinterpret_cast<uintptr_t>(launch.kernel)) << '\t' << launch.grid.x << '\t'
        << launch.grid.y << '\t' << launch.grid.z << '\t' << launch.block.count() << '\t' << launch.dynamic_shared
        << '\t' << launch.barriers << '\t' << launch.tensor_instructions << '\n';
    for (const auto& [source, counts] : launch.instructions)
      out << "instruction\t" << name(source.array) << '\t' << source.write << '\t' << in_library(source.instruction) - 1
          << '\t' << counts.size << '\t' << counts.requests << '\t' << counts.partial << '\t' << counts.bytes << '\t'
          << counts.units << '\t' << counts.ideal << '\n';
    for (const auto& [key, counts] : launch.arrays)
      out << "array\t" << name(key.first) << '\t' << key.second << '\t' << counts.bytes << '\t' << counts.sectors
          << '\t' << counts.block_sectors << '\t' << counts.distinct_sectors << '\t' << counts.distinct_bytes << '\n';
  }
  text = out.str();
  return text.c_str();
}
