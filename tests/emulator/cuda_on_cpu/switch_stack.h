// Switches between stacks: a few instructions of assembly where the architecture is known, because swapcontext makes a
// system call each time (ten times slower); ucontext elsewhere, or with -DEMU_UCONTEXT.
#pragma once
#include <cstddef>
#include <cstring>

#if defined(EMU_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__))
#define EMU_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace emu::detail {

#ifdef EMU_USES_UCONTEXT

struct StackContext {
  ucontext_t context;
};
inline void switch_stack(StackContext& from, StackContext& to) { swapcontext(&from.context, &to.context); }
inline void prepare_stack(StackContext& fiber, char* stack, size_t size, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

#else

// Pushes the registers that a callee must keep, stores the stack pointer, loads the other, pops.
extern "C" void emu_switch_stack(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.weak emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack,@function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack
)");
constexpr int kFrameWords = 8;  // six registers, the return address, and one word that aligns the stack
constexpr int kReturnAddressWord = 6;
#else
asm(R"(
.text
.weak emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack,%function
emu_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emu_switch_stack,.-emu_switch_stack
)");
constexpr int kFrameWords = 20;  // twelve general registers, eight vector registers
constexpr int kReturnAddressWord = 11;
#endif

struct StackContext {
  void* stack_pointer = nullptr;
};
__attribute__((always_inline)) inline void switch_stack(StackContext& from, StackContext& to) {
  emu_switch_stack(&from.stack_pointer, to.stack_pointer);
}
// Lays out the frame that emu_switch_stack pops, so that the first switch "returns" into entry.
inline void prepare_stack(StackContext& fiber, char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size) - 2;  // 16-byte aligned
  void** frame = top - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof(void*));
  frame[kReturnAddressWord] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = frame;
}

#endif

}  // namespace emu::detail
