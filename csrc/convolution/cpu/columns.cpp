// Bytes: the columns once, kernel elements times as many as the image's; torch's own im2col and col2im, which look at
// every element for whether it is outside of the image, take 7 to 22 times as long as a copy of the columns (one core).
// Here a channel is copied between borders of zeros first, so that every row of the result is a run of its memory.
#include "convolution/cpu/columns.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace crossd_ops::cpu {
namespace {

constexpr int64_t kRunBytes = 32;           // of a copy whose length the compiler knows
constexpr int64_t kWorthAThread = 1 << 15;  // elements

// A channel between borders of zeros.
template <typename T>
class PaddedChannel {
 public:
  explicit PaddedChannel(const ColumnsProblem& problem) : problem_(problem) {
    for (int i = 0; i < 3; ++i) sizes_[i] = problem.image[i] + 2 * problem.padding[i];
    elements_.assign(sizes_[0] * sizes_[1] * sizes_[2] + kRunBytes / sizeof(T), T(0));  // the last run may go over
  }

  void clear() { std::fill(elements_.begin(), elements_.end(), T(0)); }

  // visit(element, offset of the pixel in the image)
  template <typename Visit>
  void for_each_pixel(const Visit& visit) {
    const auto& [depth, height, width] = problem_.image;
    for (int64_t z = 0; z < depth; ++z)
      for (int64_t y = 0; y < height; ++y) {
        T* row = elements_.data() + at(z + problem_.padding[0], y + problem_.padding[1], problem_.padding[2]);
        const int64_t offset = z * problem_.image_pixel[0] + y * problem_.image_pixel[1];
        for (int64_t x = 0; x < width; ++x) visit(row[x], offset + x * problem_.image_pixel[2]);
      }
  }

  // visit(row of `width of the result` elements `stride` apart, offset in the channel's columns), in their order
  template <typename Visit>
  void for_each_row(const Visit& visit) {
    const auto& [kernel_d, kernel_h, kernel_w] = problem_.kernel;
    int64_t offset = 0;
    const int64_t behind = problem_.row - problem_.result[0] * problem_.result[1] * problem_.result[2];
    for (int64_t d = 0; d < kernel_d; ++d)
      for (int64_t h = 0; h < kernel_h; ++h)
        for (int64_t w = 0; w < kernel_w; ++w, offset += behind)
          for (int64_t z = 0; z < problem_.result[0]; ++z)
            for (int64_t y = 0; y < problem_.result[1]; ++y, offset += problem_.result[2])
              visit(elements_.data() + at(d * problem_.dilation[0] + z * problem_.stride[0],
                                          h * problem_.dilation[1] + y * problem_.stride[1], w * problem_.dilation[2]),
                    offset);
  }

 private:
  int64_t at(int64_t z, int64_t y, int64_t x) const { return (z * sizes_[1] + y) * sizes_[2] + x; }

  const ColumnsProblem& problem_;
  Axes sizes_;
  std::vector<T> elements_;
};

int64_t product(const Axes& sizes) { return sizes[0] * sizes[1] * sizes[2]; }
int64_t elements_of_channel(const ColumnsProblem& problem) { return product(problem.kernel) * problem.row; }

// work(first, last) over the channels of all samples, which do not touch each other.
template <typename Work>
void in_parallel(const ColumnsProblem& problem, const Work& work) {
  const int64_t of_channel = std::max<int64_t>(1, elements_of_channel(problem));
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / of_channel);
  torch::stable::parallel_for(0, problem.samples * problem.channels, grain, work);
}

int64_t offset_of_channel(const ColumnsProblem& problem, int64_t channel) {
  return channel / problem.channels * problem.image_sample + channel % problem.channels * problem.image_channel;
}

// `to` gets `count` elements; where `end` leaves room, what comes after them too, which the next row writes again.
template <typename T>
void copy_row(const T* from, int64_t count, int64_t stride, T* to, const T* end) {
  constexpr int64_t kRun = kRunBytes / sizeof(T);
  if (stride != 1) {
    for (int64_t x = 0; x < count; ++x) to[x] = from[x * stride];
  } else if (end - to >= (count + kRun - 1) / kRun * kRun) {
    for (int64_t x = 0; x < count; x += kRun) std::memcpy(to + x, from + x, kRunBytes);
  } else {
    std::memcpy(to, from, count * sizeof(T));
  }
}

template <typename T>
void gather(const ColumnsProblem& problem, const T* image, T* columns) {
  const int64_t of_channel = elements_of_channel(problem), width = problem.result[2];
  in_parallel(problem, [&](int64_t first, int64_t last) {
    PaddedChannel<T> padded(problem);
    T *to = columns + first * of_channel, *const end = columns + last * of_channel;
    for (int64_t channel = first; channel < last; ++channel, to += of_channel) {
      const T* from = image + offset_of_channel(problem, channel);
      padded.for_each_pixel([&](T& element, int64_t offset) { element = from[offset]; });
      padded.for_each_row(
          [&](const T* row, int64_t offset) { copy_row(row, width, problem.stride[2], to + offset, end); });
    }
  });
}

template <typename T, typename Acc>
void scatter(const ColumnsProblem& problem, const T* columns, T* image) {
  const int64_t of_channel = elements_of_channel(problem);
  const int64_t width = problem.result[2], stride = problem.stride[2];
  in_parallel(problem, [&](int64_t first, int64_t last) {
    PaddedChannel<Acc> padded(problem);
    const T* of_row = columns + first * of_channel;
    for (int64_t channel = first; channel < last; ++channel, of_row += of_channel) {
      padded.clear();
      padded.for_each_row([&](Acc* row, int64_t offset) {
        const T* from = of_row + offset;
        if (stride == 1)
          for (int64_t x = 0; x < width; ++x) row[x] += static_cast<Acc>(from[x]);
        else
          for (int64_t x = 0; x < width; ++x) row[x * stride] += static_cast<Acc>(from[x]);
      });
      T* to = image + offset_of_channel(problem, channel);
      padded.for_each_pixel([&](Acc& element, int64_t offset) { to[offset] = static_cast<T>(element); });
    }
  });
}

}  // namespace

void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns) {
  const auto of_size = [&](auto element) {
    using T = decltype(element);
    gather(problem, static_cast<const T*>(image), static_cast<T*>(columns));
  };
  switch (size_of(problem.dtype)) {  // only copied
    case 8: return of_size(uint64_t{});
    case 4: return of_size(uint32_t{});
    default: return of_size(uint16_t{});
  }
}

void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image) {
  const auto of_types = [&](auto element, auto sum) {
    using T = decltype(element);
    scatter<T, decltype(sum)>(problem, static_cast<const T*>(columns), static_cast<T*>(image));
  };
  switch (problem.dtype) {
    case Dtype::float64: return of_types(double{}, double{});
    case Dtype::float32: return of_types(float{}, float{});
    case Dtype::bfloat16: return of_types(c10::BFloat16{}, float{});
    case Dtype::float16: return of_types(c10::Half{}, float{});
  }
}

}  // namespace crossd_ops::cpu
