// What goes wrong inside of torch, told in torch's words.
//
// Its C interface says that a call failed, not why, and the stable ABI makes "API call failed at" a file of it: nothing
// that a user could act on, least of all where memory is full. From torch 2.13 on its words can be asked for; before,
// torch prints them on standard error alone.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();  // torch 2.13

namespace crossd_ops {

// About the exception that a call of the C interface has just met in this thread; empty where torch does not tell.
inline std::string words_of_torch() {
  return torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : "";
}

// A failed allocation. Python makes torch.OutOfMemoryError of the text about CUDA (crossd_ops/operators/backends.py).
[[noreturn]] inline void throw_out_of_memory(bool on_gpu, int64_t bytes) {
  const std::string words = words_of_torch();
  if (!words.empty()) throw std::runtime_error(words);
  throw std::runtime_error(
      (on_gpu ? "CUDA out of memory. Tried to allocate " : "not enough memory: tried to allocate ") +
      std::to_string(bytes) + " bytes");
}

// Operators as the dispatcher gets them: `call` does what `function` does.
template <auto function>
struct InWordsOfTorch;
template <typename Result, typename... Arguments, Result (*function)(Arguments...)>
struct InWordsOfTorch<function> {
  static Result call(Arguments... arguments) {
    try {
      return function(std::forward<Arguments>(arguments)...);
    } catch (const std::bad_alloc&) {
      throw std::runtime_error("not enough memory on the CPU");
    } catch (const std::runtime_error& error) {
      const std::string text = error.what();
      if (text.find(" API call failed at ") == std::string::npos) throw;
      const std::string words = words_of_torch();
      if (!words.empty()) throw std::runtime_error(words);
      throw std::runtime_error("torch failed inside of crossd_ops, in " + text.substr(0, text.find('(')) +
                               ", as a rule for want of memory; before torch 2.13 its own words are on standard error");
    }
  }
};

}  // namespace crossd_ops
