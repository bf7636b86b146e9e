// Chooses a kernel for columns and launches it. The same source for nvcc and for the emulator of the tests.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "convolution/cuda/columns.cuh"

namespace crossd_ops::cuda {

inline dim3 blocks_of(int64_t samples, int64_t rows, int64_t pixels, int tile_pixels) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows * ((pixels + tile_pixels - 1) / tile_pixels);
  return dim3(static_cast<unsigned>(narrow(samples * tiles)));
}

// Whether channels can be met in vectors, and fill most of a tile.
template <typename T>
bool has_vectors_of_channels(const ColumnsProblem& problem, const void* image) {
  bool whole = problem.image_channel == 1 && problem.channels % kColumnsVector<T> == 0 &&
               2 * problem.channels > kTileRows && reinterpret_cast<uintptr_t>(image) % kVectorBytes == 0;
  whole = whole && (problem.samples == 1 || problem.image_sample % kColumnsVector<T> == 0);
  for (int i = 0; i < 3; ++i)
    whole = whole && (problem.image[i] == 1 || problem.image_pixel[i] % kColumnsVector<T> == 0);
  return whole;
}

inline void check_columns(const ColumnsProblem& problem, const void* columns) {
  if (problem.row < product(problem.result) || problem.row * size_of(problem.dtype) % kVectorBytes != 0 ||
      reinterpret_cast<uintptr_t>(columns) % kVectorBytes != 0)
    throw std::runtime_error("crossd_ops: expected rows of columns of whole vectors");
}

// A grid without blocks is an error.
inline bool is_empty(const ColumnsProblem& problem, const Axes& pixels) {
  return problem.samples * problem.channels * product(pixels) == 0;
}

template <typename T>
void launch_columns_from(const ColumnsProblem& problem, const void* image, void* columns, cudaStream_t stream) {
  const ColumnsShape shape = columns_shape(problem);
  const bool vectors = has_vectors_of_channels<T>(problem, image);
  const int64_t rows = vectors ? shape.channels : shape.channels * shape.taps;
  launch(vectors ? columns_from_channels<T> : columns_from_pixels<T>,
         blocks_of(problem.samples, rows, shape.pixels, kTilePixels<T>), dim3(kColumnsThreads), 0, stream, shape,
         static_cast<const T*>(image), static_cast<T*>(columns));
}

// Along a row only where each pixel has whole vectors: else what is written together would lie apart.
inline void set_phases(ColumnsShape& shape, bool of_rows) {
  int64_t places = 1;
  for (int i = 0; i < 3; ++i) {
    shape.phases[i] = i < 2 || of_rows ? std::min(shape.stride[i], shape.image[i]) : 1;
    shape.of_phase[i] = (shape.image[i] + shape.phases[i] - 1) / shape.phases[i];
    places *= static_cast<int64_t>(shape.phases[i]) * shape.of_phase[i];
  }
  shape.places = narrow(places);
}

template <typename T, typename Acc>
void launch_image_from(const ColumnsProblem& problem, const void* columns, void* image, cudaStream_t stream) {
  ColumnsShape shape = columns_shape(problem);
  const bool vectors = has_vectors_of_channels<T>(problem, image);
  set_phases(shape, vectors);
  const auto kernel = vectors                      ? image_from_columns<T, Acc, kColumnsVector<T>>
                      : problem.image_channel == 1 ? image_from_columns<T, Acc, 1>
                                                   : image_from_columns<T, Acc, 0>;
  launch(kernel, blocks_of(problem.samples, shape.channels, shape.places, kTilePixels<T>), dim3(kColumnsThreads), 0,
         stream, shape, static_cast<const T*>(columns), static_cast<T*>(image));
}

inline void launch_image_to_columns(const ColumnsProblem& problem, const void* image, void* columns,
                                    cudaStream_t stream) {
  check_columns(problem, columns);
  if (is_empty(problem, problem.result)) return;
  switch (size_of(problem.dtype)) {  // only copied
    case 8: return launch_columns_from<uint64_t>(problem, image, columns, stream);
    case 4: return launch_columns_from<uint32_t>(problem, image, columns, stream);
    default: return launch_columns_from<uint16_t>(problem, image, columns, stream);
  }
}

inline void launch_columns_to_image(const ColumnsProblem& problem, const void* columns, void* image,
                                    cudaStream_t stream) {
  check_columns(problem, columns);
  if (is_empty(problem, problem.image)) return;
  switch (problem.dtype) {
    case Dtype::float64: return launch_image_from<double, double>(problem, columns, image, stream);
    case Dtype::float32: return launch_image_from<float, float>(problem, columns, image, stream);
    case Dtype::bfloat16: return launch_image_from<BFloat16, float>(problem, columns, image, stream);
    case Dtype::float16: return launch_image_from<Float16, float>(problem, columns, image, stream);
  }
}

}  // namespace crossd_ops::cuda
