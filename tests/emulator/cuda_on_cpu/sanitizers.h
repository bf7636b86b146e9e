// What ThreadSanitizer and AddressSanitizer are told about fibers. Without them everything here is empty.
#pragma once
#include <cstddef>
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// Code of the emulator's own, which is run more often than a kernel's, and where no sanitizer has anything to find.
// What it calls must be such code too, or a part of it: EMU_PART comes behind the parameters of a lambda.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define EMU_OWN [[gnu::noinline, gnu::no_sanitize("thread", "address", "undefined")]]
#else
#define EMU_OWN
#endif
#define EMU_PART __attribute__((always_inline))

#if defined(__SANITIZE_THREAD__)
extern "C" {
void __tsan_ignore_thread_begin();
void __tsan_ignore_thread_end();
}
#endif

namespace emu::detail {

#if defined(__SANITIZE_THREAD__)
// The emulator's own accesses are no part of the kernel: only barriers may order the fibers.
struct IgnoreAccesses {
  IgnoreAccesses() { __tsan_ignore_thread_begin(); }
  ~IgnoreAccesses() { __tsan_ignore_thread_end(); }
};
constexpr bool kFindsRaces = true;
EMU_PART inline void acquire(void* tag) { __tsan_acquire(tag); }
EMU_PART inline void release(void* tag) { __tsan_release(tag); }
#else
constexpr bool kFindsRaces = false;
struct IgnoreAccesses {
  IgnoreAccesses() {}  // user-provided: an object that is never named again gives no warning
};
EMU_PART inline void acquire(void*) {}
EMU_PART inline void release(void*) {}
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
  EMU_PART void before_switch_to(SanitizerFiber& target, const char*, size_t) {
    constexpr unsigned no_synchronisation = 1;
    __tsan_switch_to_fiber(target.thread, no_synchronisation);
  }
  EMU_PART void after_switch_back() {}
  static void on_first_entry() {}
#elif defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  void create() {}
  void destroy() {}
  void adopt_current() {}
  // A null stack: the target is the thread that launched.
  EMU_PART void before_switch_to(SanitizerFiber&, const char* stack, size_t size) {
    if (stack) {
      __sanitizer_start_switch_fiber(&fake_stack, stack, size);
    } else {
      __sanitizer_start_switch_fiber(&fake_stack, main_stack.bottom, main_stack.size);
    }
  }
  EMU_PART void after_switch_back() { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
  static void on_first_entry() { __sanitizer_finish_switch_fiber(nullptr, &main_stack.bottom, &main_stack.size); }
#else
  void create() {}
  void destroy() {}
  void adopt_current() {}
  EMU_PART void before_switch_to(SanitizerFiber&, const char*, size_t) {}
  EMU_PART void after_switch_back() {}
  static void on_first_entry() {}
#endif
};

}  // namespace emu::detail
