// Methods that were measured, or asked for by whoever measures: for the problems that it holds this table stands above
// the rules of convolution/choice.h.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace crossd_ops {

using ProblemKey = std::vector<int64_t>;  // what tells one problem from another, see key_of

class MethodTable {
 public:
  // Without a lock: mostly there is nothing to look up.
  static bool is_empty() { return table().count_.load(std::memory_order_acquire) == 0; }

  static std::optional<int> find(const ProblemKey& key) {
    MethodTable& self = table();
    const std::lock_guard lock(self.mutex_);
    const auto found = self.methods_.find(key);
    return found == self.methods_.end() ? std::nullopt : std::optional(found->second);
  }

  // No method: what the rules say.
  static void set(const ProblemKey& key, std::optional<int> method) {
    MethodTable& self = table();
    const std::lock_guard lock(self.mutex_);
    if (method)
      self.methods_[key] = *method;
    else
      self.methods_.erase(key);
    self.count_.store(self.methods_.size(), std::memory_order_release);
  }

 private:
  static MethodTable& table() {
    static MethodTable self;
    return self;
  }

  std::mutex mutex_;
  std::map<ProblemKey, int> methods_;
  std::atomic<size_t> count_ = 0;
};

}  // namespace crossd_ops
