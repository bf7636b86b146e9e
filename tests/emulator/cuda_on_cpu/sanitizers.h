// What ThreadSanitizer and AddressSanitizer are told about fibers. Without them everything here is empty.
#pragma once
#include <cstddef>
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define EMU_UNSEEN_BY_TSAN [[gnu::noinline, gnu::no_sanitize("thread")]]
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#else
#define EMU_UNSEEN_BY_TSAN
#endif

namespace emu::detail {

#if defined(__SANITIZE_THREAD__)
// The emulator's own accesses are no part of the kernel: only barriers may order the fibers.
struct IgnoreAccesses {
  IgnoreAccesses() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~IgnoreAccesses() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
};
constexpr bool kFindsRaces = true;
inline void acquire(void* tag) { __tsan_acquire(tag); }
inline void release(void* tag) { __tsan_release(tag); }
#else
constexpr bool kFindsRaces = false;
struct IgnoreAccesses {
  IgnoreAccesses() {}  // user-provided: an object that is never named again gives no warning
};
inline void acquire(void*) {}
inline void release(void*) {}
#endif

#if defined(__SANITIZE_ADDRESS__)
struct StackBounds {
  const void* bottom = nullptr;
  size_t size = 0;
};
inline StackBounds main_stack;  // known once the first fiber has been entered
#endif

// A fiber as the sanitizers know it.
struct SanitizerFiber {
#if defined(__SANITIZE_THREAD__)
  void* thread = nullptr;
  void create() { thread = __tsan_create_fiber(0); }
  void destroy() { __tsan_destroy_fiber(thread); }
  void adopt_current() { thread = __tsan_get_current_fiber(); }
  EMU_UNSEEN_BY_TSAN void before_switch_to(SanitizerFiber& target, const char*, size_t) {
    constexpr unsigned no_synchronisation = 1;
    __tsan_switch_to_fiber(target.thread, no_synchronisation);
  }
  void after_switch_back() {}
  static void on_first_entry() {}
#elif defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  void create() {}
  void destroy() {}
  void adopt_current() {}
  // A null stack: the target is the thread that launched.
  void before_switch_to(SanitizerFiber&, const char* stack, size_t size) {
    if (stack) {
      __sanitizer_start_switch_fiber(&fake_stack, stack, size);
    } else {
      __sanitizer_start_switch_fiber(&fake_stack, main_stack.bottom, main_stack.size);
    }
  }
  void after_switch_back() { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
  static void on_first_entry() { __sanitizer_finish_switch_fiber(nullptr, &main_stack.bottom, &main_stack.size); }
#else
  void create() {}
  void destroy() {}
  void adopt_current() {}
  void before_switch_to(SanitizerFiber&, const char*, size_t) {}
  void after_switch_back() {}
  static void on_first_entry() {}
#endif
};

}  // namespace emu::detail
