// Runs the whole head on the CPU in memory of exactly the size that it may touch: `head_check`. Each case runs with
// several numbers of threads, which the test's parallel_for supplies, and must give the same finite bits. One line for
// each case that fails, then a summary; exit status 1 where one does.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "head/cpu/head.h"
#include "strided.h"

namespace check {

using namespace crossd_ops;

struct Case {
  int64_t samples, channels, height, width;
  Layout layout;
  bool training, need_input, need_parameters;
  Dtype dtype = Dtype::float32;  // of the input

  std::string name() const {
    std::string text;
    for (const int64_t size : {samples, channels, height, width}) text += std::to_string(size) + " ";
    constexpr const char* dtypes[] = {"float64", "float32", "bfloat16", "float16"};
    return text + dtypes[int(dtype)] + " " + layout_name(layout) + (training ? " training" : "") +
           (need_input ? " input" : "") + (need_parameters ? " parameters" : "");
  }
};

MapStrides strides_of(const Strided& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

struct Results {
  std::vector<float> numbers;
  std::vector<double> grad_input;
  std::string raw;
  bool wrote_outside;
};

// One allocation for each array, so that AddressSanitizer sees the end of each.
using Floats = std::vector<float>;
Floats drawn(size_t count, std::mt19937& random, float mean) {
  std::normal_distribution<float> normal(mean, 0.5f);
  Floats values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  return values;
}

Results run(const Case& one, const Strided& input, const std::vector<Floats>& given) {
  const bool overlaps = one.layout == Layout::expanded_first || one.layout == Layout::expanded;
  Strided grad_input({one.samples, one.channels, one.height, one.width}, 1, overlaps ? Layout::contiguous : one.layout,
                     one.dtype);
  Strided beside({one.samples, one.channels, one.height, one.width}, 1, overlaps ? Layout::contiguous : one.layout,
                 one.dtype);
  const HeadInput problem{{one.samples, one.height, one.width},
                          one.channels,
                          const_cast<Strided&>(input).data(),
                          strides_of(input),
                          one.dtype};
  const auto values = [](const Floats& floats) { return HeadValues{floats.data(), Dtype::float32}; };
  const HeadParameters parameters{
      values(given[0]), values(given[1]), values(given[2]), values(given[3]), values(given[4]), values(given[5]), 1e-5};
  const Floats given_variance(16, 1.5f);
  Floats mean(16), variance(16), running_mean(16), running_variance(16, 1.0f), shift(one.samples * 3),
      statistics(one.samples * 12);
  int64_t batches = 0;
  RunningStatistics running{};
  if (one.samples * one.height * one.width > 1)
    running = {{running_mean.data(), Dtype::float32}, {running_variance.data(), Dtype::float32}, &batches, 0, 1};
  cpu::head_forward({problem, parameters, one.training, true, values(given[6]), values(given_variance), mean.data(),
                     variance.data(), running, shift.data(), statistics.data()});
  std::vector<Floats> grads;
  for (int i = 0; i < 6; ++i) grads.emplace_back(one.need_parameters ? given[i].size() : 0);
  const auto target = [&](int i) { return HeadTarget{grads[i].data(), Dtype::float32}; };
  std::mt19937 random(21);
  beside.fill(random);
  cpu::head_backward({problem, parameters, one.training, true, mean.data(), variance.data(), statistics.data(),
                      given[7].data(), one.need_input ? grad_input.data() : nullptr,
                      one.need_input && one.training ? beside.data() : nullptr, strides_of(grad_input),
                      one.need_parameters, target(0), target(1), target(2), target(3), target(4), target(5)});
  Results results{{}, {}, grad_input.raw(), grad_input.wrote_outside()};
  grads.insert(grads.end(), {mean, variance, running_mean, running_variance, shift, statistics});
  for (const Floats& values : grads) results.numbers.insert(results.numbers.end(), values.begin(), values.end());
  if (one.need_input) results.grad_input = grad_input.values({0, 1, 2, 3});
  return results;
}

std::string fault_of(const Case& one) {
  std::mt19937 random(20);
  Strided input({one.samples, one.channels, one.height, one.width}, 1, one.layout, one.dtype);
  input.fill(random);
  const size_t sizes[] = {16 * size_t(one.channels), 16, 16, 16, 64, 4, 16, size_t(one.samples) * 3};
  std::vector<Floats> given;
  for (const size_t size : sizes) given.push_back(drawn(size, random, given.size() == 2 ? 1.0f : 0.0f));
  const Results first = run(one, input, given);
  if (first.wrote_outside) return "wrote outside";
  const auto finite = [](double value) { return std::isfinite(value); };
  if (!std::all_of(first.numbers.begin(), first.numbers.end(), finite)) return "not finite";
  if (!std::all_of(first.grad_input.begin(), first.grad_input.end(), finite)) return "gradient of input not finite";
  for (int again = 0; again < 2; ++again) {
    const Results other = run(one, input, given);
    if (other.numbers != first.numbers || other.raw != first.raw) return "depends on threads";
  }
  return "";
}

}  // namespace check

int main() {
  using namespace check;
  const int64_t sizes[][4] = {{1, 3, 5, 1}, {3, 2, 3, 5}, {2, 17, 7, 7}, {3, 5, 16, 16}, {2, 20, 45, 47}};
  const Layout layouts[] = {Layout::contiguous, Layout::offset,         Layout::channels_last, Layout::padded,
                            Layout::transposed, Layout::expanded_first, Layout::expanded};
  int count = 0, failed = 0;
  const auto check_case = [&](const Case& one) {
    const std::string fault = fault_of(one);
    ++count;
    if (fault.empty()) return;
    ++failed;
    std::printf("FAIL %s: %s\n", one.name().c_str(), fault.c_str());
  };
  for (const auto& size : sizes) {
    for (const bool training : {false, true}) {
      int number = training;
      for (const Layout layout : layouts) {
        const Dtype dtypes[] = {Dtype::float32, Dtype::bfloat16, Dtype::float16};
        for (int i = 0; i < 3; ++i)
          // Many pixels take their time: of one dtype in each layout.
          if (size[2] < 45 || i == number % 3)
            check_case({size[0], size[1], size[2], size[3], layout, training, true, true, dtypes[i]});
        ++number;
      }
      // What is not asked for is left out in the same way in every layout.
      for (const bool need_input : {false, true})
        check_case({size[0], size[1], size[2], size[3], Layout::padded, training, need_input, false});
      check_case({size[0], size[1], size[2], size[3], Layout::padded, training, false, true});
    }
  }
  std::printf("%d of %d cases failed\n", failed, count);
  return failed != 0;
}
