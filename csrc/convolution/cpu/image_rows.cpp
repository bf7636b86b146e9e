// Bytes: the rows once, kernel elements times as many as the image's, in the order in which they lie. Of a small image
// what lies outside is most of them, so each pixel knows first which elements of the kernel lie on the image.
#include "convolution/cpu/image_rows.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

namespace crossd_ops::cpu {
namespace {

constexpr int64_t kWorthAThread = 1 << 15;  // elements

int64_t product(const Axes& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

// The elements of the kernel that lie on the image at one pixel of the result.
class SeenElements {
 public:
  explicit SeenElements(const ColumnsProblem& problem) : problem_(problem) { seen_.reserve(product(problem.kernel)); }

  void find(int64_t pixel) {
    seen_.clear();
    const Axes& result = problem_.result;
    const Axes at = {pixel / (result[1] * result[2]), pixel / result[2] % result[1], pixel % result[2]};
    int64_t number = 0;
    for (int64_t d = 0; d < problem_.kernel[0]; ++d)
      for (int64_t h = 0; h < problem_.kernel[1]; ++h)
        for (int64_t w = 0; w < problem_.kernel[2]; ++w, ++number) add(number, at, {d, h, w});
  }

  // visit(its number in the kernel, offset of its pixel in the image)
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const auto& [number, offset] : seen_) visit(number, offset);
  }

  bool are_all() const { return static_cast<int64_t>(seen_.size()) == product(problem_.kernel); }

 private:
  void add(int64_t number, const Axes& at, const Axes& element) {
    int64_t offset = 0;
    for (int i = 0; i < 3; ++i) {
      const int64_t pixel = at[i] * problem_.stride[i] + element[i] * problem_.dilation[i] - problem_.padding[i];
      if (pixel < 0 || pixel >= problem_.image[i]) return;
      offset += pixel * problem_.image_pixel[i];
    }
    seen_.push_back({number, offset});
  }

  struct Element {
    int64_t number, offset;
  };
  const ColumnsProblem& problem_;
  std::vector<Element> seen_;
};

template <typename T>
void gather(const ColumnsProblem& problem, const Rows& rows, const T* image, T* out) {
  const int64_t pixels = product(problem.result), elements = product(problem.kernel);
  const int64_t of_row = problem.channels * elements, grain = std::max<int64_t>(1, kWorthAThread / of_row);
  torch::stable::parallel_for(0, rows.count, grain, [&](int64_t begin, int64_t end) {
    SeenElements seen(problem);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sample = (rows.first + row) / pixels;
      seen.find((rows.first + row) % pixels);
      T* to = out + row * of_row;
      const T* from = image + sample * problem.image_sample;
      if (!seen.are_all()) std::fill_n(to, of_row, T(0));
      for (int64_t c = 0; c < problem.channels; ++c, to += elements, from += problem.image_channel)
        seen.for_each([&](int64_t number, int64_t offset) { to[number] = from[offset]; });
    }
  });
}

// Some channels of a sample are one thread's: they do not touch each other, and rows are added in their order.
template <typename T>
void scatter(const ColumnsProblem& problem, const Rows& rows, const T* from, T* image) {
  constexpr int64_t kChannels = 32;  // of an item
  const int64_t pixels = product(problem.result), elements = product(problem.kernel),
                last_row = rows.first + rows.count;
  const int64_t blocks = (problem.channels + kChannels - 1) / kChannels, first_sample = rows.first / pixels;
  const int64_t items = ((last_row - 1) / pixels - first_sample + 1) * blocks;
  torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    SeenElements seen(problem);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = first_sample + item / blocks, first_channel = item % blocks * kChannels;
      const int64_t channels = std::min(kChannels, problem.channels - first_channel);
      T* const of_item = image + sample * problem.image_sample + first_channel * problem.image_channel;
      const int64_t last = std::min(last_row, (sample + 1) * pixels);
      for (int64_t row = std::max(rows.first, sample * pixels); row < last; ++row) {
        seen.find(row % pixels);
        const T* part = from + ((row - rows.first) * problem.channels + first_channel) * elements;
        T* to = of_item;
        for (int64_t c = 0; c < channels; ++c, part += elements, to += problem.image_channel)
          seen.for_each([&](int64_t number, int64_t offset) { to[offset] += part[number]; });
      }
    }
  });
}

}  // namespace

void image_to_rows(const ColumnsProblem& problem, const Rows& rows, const void* image, void* out) {
  if (problem.dtype == Dtype::float64)
    gather(problem, rows, static_cast<const double*>(image), static_cast<double*>(out));
  else
    gather(problem, rows, static_cast<const float*>(image), static_cast<float*>(out));
}

void add_rows_to_image(const ColumnsProblem& problem, const Rows& rows, const void* from, void* image) {
  if (problem.dtype == Dtype::float64)
    scatter(problem, rows, static_cast<const double*>(from), static_cast<double*>(image));
  else
    scatter(problem, rows, static_cast<const float*>(from), static_cast<float*>(image));
}

}  // namespace crossd_ops::cpu
