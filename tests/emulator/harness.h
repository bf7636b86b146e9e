// What every harness needs to be called by ctypes: exported C functions, and errors returned as text.
#pragma once

#include <cstddef>
#include <exception>
#include <mutex>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace harness {

inline std::mutex one_launch_at_a_time;  // ctypes releases Python's lock, and the emulator has one machine

// Null, or the text of the error that the function throws, which lasts until the thread's next one.
template <typename Function>
const char* error_of(Function&& function) {
  thread_local std::string last_error;
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  try {
    function();
  } catch (const std::exception& error) {
    last_error = error.what();
    return last_error.c_str();
  }
  return nullptr;
}

}  // namespace harness
