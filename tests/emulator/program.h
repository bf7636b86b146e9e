// A program that checks kernels case by case: its options, what it tells of each case, and its exit status.
//
// --one-order: of threads, instead of three; brief: fewer cases; --first-failure: nothing after it; --cases=N: the first N;
// --numbers: that of each case is told as it begins, which a sanitizer may end.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <numeric>
#include <set>
#include <string>

namespace check {

// Cases that are unlike follow each other, so that a fault of one kind is found soon.
template <typename Cases>
Cases far_apart(const Cases& cases) {
  const size_t count = cases.size();
  size_t step = count * 5 / 8 + 1;
  while (std::gcd(step, count) > 1) ++step;
  Cases mixed;
  for (size_t i = 0; i < count; ++i) mixed.push_back(cases[i * step % count]);
  return mixed;
}

class Program {
 public:
  Program(int count, char** arguments) : options_(arguments + 1, arguments + count) {
    for (const std::string& option : options_)
      if (option.rfind("--cases=", 0) == 0) most_cases_ = std::atoi(option.c_str() + 8);
  }

  bool has(const char* option) const { return options_.count(option) != 0; }

  // What `fault_of` returns or throws is told, if it is anything; false where no other case is to be tried.
  template <typename FaultOf>
  bool goes_on_after(const std::string& name, const FaultOf& fault_of) {
    std::string fault;
    if (has("--numbers")) std::printf("case %d\n", cases_ + 1), std::fflush(stdout);
    try {
      fault = fault_of();
    } catch (const std::exception& error) {
      fault = error.what();
    }
    ++cases_;
    if (fault.empty()) return cases_ < most_cases_;
    ++failed_;
    std::printf("FAIL: %s: %s\n", name.c_str(), fault.c_str());
    return cases_ < most_cases_ && !has("--first-failure");
  }

  // What main returns: of all cases, which have a name; fault_of(case, orders of threads).
  template <typename Cases, typename FaultOf>
  int check(const Cases& cases, const FaultOf& fault_of) {
    const int orders = has("--one-order") ? 1 : 3;
    for (const auto& one : cases)
      if (!goes_on_after(one.name(), [&] { return fault_of(one, orders); })) break;
    return finish();
  }

  int finish() const {
    std::printf("%d of %d cases failed\n", failed_, cases_);
    return failed_ != 0;
  }

 private:
  std::set<std::string> options_;
  int cases_ = 0, failed_ = 0, most_cases_ = std::numeric_limits<int>::max();
};

}  // namespace check
