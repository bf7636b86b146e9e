// Deals the pixels of a head out to blocks, and launches its kernels. The same source for nvcc and for the emulator.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>

#include "head/cuda/few_channels/backward.cuh"
#include "head/cuda/few_channels/forward.cuh"

namespace crossd_ops::cuda {

// Constants, so that results do not depend on the GPU: blocks that fill every one of today, as many as leave little to
// be joined; and parts of samples, some for each block, that runs of them are of about one length.
constexpr int64_t kHeadBlocks = 256, kHeadWantedItems = 1024;
constexpr int64_t kMostPixels = 1 << 30;  // with the tiles around them in 32 bits

// Channels side by side, whose vectors of 16 bytes begin at whole ones.
inline bool in_vectors(const MapShape& shape, int64_t channels, const MapStrides& strides, const void* data,
                       Dtype dtype) {
  const int64_t size = kVectorBytes / size_of(dtype);
  const auto whole = [&](int64_t count, int64_t stride) { return count == 1 || stride % size == 0; };
  return strides.channel == 1 && channels % size == 0 && whole(shape.samples, strides.sample) &&
         whole(shape.rows, strides.row) && whole(shape.columns, strides.column) &&
         reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
}

inline int64_t items_of(const MapShape& shape, const HeadWork& work) { return shape.samples * work.parts.count; }
// Where vectors of the input are taken as they lie, and no tile is to stay, a warp has two chunks of channels, else
// one.
inline HeadWork head_work(const HeadInput& input, bool tile_stays = false) {
  const auto ceil_divide = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t chunks = ceil_divide(input.channels, kTile), pixels = input.shape.pixels();
  if (pixels >= kMostPixels)
    throw std::invalid_argument("crossd_ops: expected less than 2^30 pixels of a sample, got " +
                                std::to_string(pixels));
  HeadWork work{};
  work.packed = in_vectors(input.shape, input.channels, input.strides, input.data, input.dtype);
  work.straight = work.packed && input.dtype == Dtype::bfloat16 && chunks <= kStraightChunks;
  const int64_t of_warp = work.straight && !tile_stays ? 2 : 1;
  for (work.ways = 1; work.ways < kHeadWarps && work.ways * of_warp < chunks;) work.ways *= 2;
  const int64_t tile = kTile * (kHeadWarps / work.ways);
  const int64_t wanted = ceil_divide(kHeadWantedItems, input.shape.samples);
  const int64_t of_part = ceil_divide(ceil_divide(pixels, wanted), tile) * tile;
  work.parts = {static_cast<int>(ceil_divide(pixels, of_part)), of_part};
  const int64_t items = items_of(input.shape, work);
  work.pixels = static_cast<double>(input.shape.samples * pixels);
  work.blocks = static_cast<int>(std::min(items, kHeadBlocks));
  work.items_of_block = items / work.blocks, work.with_one_more = static_cast<int>(items % work.blocks);
  return work;
}

inline bool has_few_channels(const HeadInput& input) { return input.channels <= kFewChannels; }
// Whether one pass over the pixels does.
inline bool has_few_channels(const HeadBackward& problem) {
  return has_few_channels(problem.input) && !problem.grad_input;
}

// Elements of float that a pass writes for itself.
struct HeadWorkspace {
  size_t first, second;  // moments and pooled scores; sums, and parts of the gradient of the first convolution
  size_t tickets;
  size_t total() const { return first + second + tickets; }
};
inline HeadWorkspace head_workspace(const HeadForward& problem) {
  const HeadWork work = head_work(problem.input);
  const size_t pooled = static_cast<size_t>(items_of(problem.input.shape, work)) * kHeadChannels * 3;
  const int moments = has_few_channels(problem.input) ? kFewMomentsRow : kMomentRows * kHiddenChannels;
  return {problem.training ? static_cast<size_t>(work.blocks) * moments : 0, pooled,
          problem.training ? static_cast<size_t>(problem.input.shape.samples) : 0};
}
inline int64_t whole_tiles(int64_t channels) { return (channels + kTile - 1) / kTile * kTile; }
inline HeadWorkspace head_workspace(const HeadBackward& problem) {
  const auto blocks = static_cast<size_t>(head_work(problem.input).blocks);
  if (has_few_channels(problem)) return {blocks * kFewSums, 0, 0};
  const auto of_gradient = static_cast<size_t>(head_work(problem.input, true).blocks);
  const size_t weights = of_gradient * kHiddenChannels * static_cast<size_t>(whole_tiles(problem.input.channels));
  return {problem.training || problem.need_parameters ? blocks * kHiddenSums : 0, problem.need_parameters ? weights : 0,
          0};
}

// Calls function(T{}).
template <typename Function>
void with_input_type(Dtype dtype, Function&& function) {
  switch (dtype) {
    case Dtype::float32: return function(float{});
    case Dtype::bfloat16: return function(BFloat16{});
    case Dtype::float16: return function(Float16{});
    case Dtype::float64: throw std::invalid_argument("crossd_ops: the head has no kernels of float64");
  }
}

template <typename T>
void launch_head_passes(const HeadForward& problem, const HeadWork& work, float* moments, HeadPooled pooled,
                        cudaStream_t stream) {
  const bool few = has_few_channels(problem.input);
  const dim3 grid(static_cast<unsigned>(work.blocks)), threads(kHeadThreads);
  if (problem.training && few)
    launch(head_moments_few<T>, grid, threads, kHeadWarps * kFewMoments * sizeof(float), stream, problem, work, moments,
           pooled);
  else if (problem.training)
    launch(head_moments<T>, grid, threads, sizeof(HeadShared), stream, problem, work, moments, pooled);
  if (few)
    launch(head_pool_few<T>, grid, threads, sizeof(FewShared), stream, problem, work, moments, pooled);
  else
    launch(head_pool<T>, grid, threads, sizeof(HeadShared), stream, problem, work, moments, pooled);
}

inline void launch_head(HeadForward problem, float* workspace, cudaStream_t stream) {
  HeadInput& input = problem.input;
  simplify_pixels(input.shape, input.strides, nullptr);
  const HeadWork work = head_work(input);
  const HeadWorkspace sizes = head_workspace(problem);
  float* parts = workspace + sizes.first;
  unsigned* tickets = problem.training ? reinterpret_cast<unsigned*>(parts + sizes.second) : nullptr;
  with_input_type(input.dtype, [&](auto type) {
    launch_head_passes<decltype(type)>(problem, work, workspace, {parts, tickets}, stream);
  });
  if (!problem.training)
    launch(rotation_head_finish<float>, dim3(static_cast<unsigned>(input.shape.samples)), dim3(kLanes), 0, stream,
           rotation_problem(problem, parts), work.parts.count);
}

inline void launch_head_backward(HeadBackward problem, float* workspace, cudaStream_t stream) {
  HeadInput& input = problem.input;
  simplify_pixels(input.shape, input.strides, problem.grad_input ? &problem.grad_strides : nullptr);
  const HeadWork of_sums = head_work(input);
  constexpr size_t join_bytes = kHeadChannels * kHeadThreads * sizeof(double);
  if (has_few_channels(problem)) {
    const size_t bytes = sizeof(FewShared) + kHeadWarps * kFewOfHidden * sizeof(float);
    with_input_type(input.dtype, [&](auto type) {
      launch(head_sums_few<decltype(type)>, dim3(static_cast<unsigned>(of_sums.blocks)), dim3(kHeadThreads), bytes,
             stream, problem, of_sums, workspace);
    });
    constexpr int blocks = kFewSums / kLanes + 1;
    return launch(head_join_few<double>, dim3(blocks), dim3(kHeadThreads), join_bytes, stream, problem, of_sums.blocks,
                  of_sums.pixels, workspace);
  }
  HeadWork work = head_work(input, true);
  const auto packed = [&](const void* data) {
    return in_vectors(input.shape, input.channels, problem.grad_strides, data, input.dtype);
  };
  work.grad_packed = packed(problem.grad_input) && (!problem.grad_beside || packed(problem.grad_beside));
  const int64_t columns = whole_tiles(input.channels);
  const HeadGradientParts parts{workspace, workspace + head_workspace(problem).first, columns, of_sums.blocks,
                                work.blocks};
  const dim3 threads(kHeadThreads),
      slabs(static_cast<unsigned>(work.blocks), static_cast<unsigned>((columns / kTile + work.ways - 1) / work.ways));
  with_input_type(input.dtype, [&](auto type) {
    if (problem.training || problem.need_parameters)
      launch(head_sums<decltype(type)>, dim3(static_cast<unsigned>(of_sums.blocks)), threads, sizeof(HeadShared),
             stream, problem, of_sums, parts.sums);
    launch(head_gradient<decltype(type)>, slabs, threads, sizeof(HeadShared), stream, problem, work, parts);
  });
  if (!problem.need_parameters) return;
  const int64_t sums = kHiddenSums + kHiddenChannels * columns;
  launch(head_join<double>, dim3(static_cast<unsigned>(sums / kLanes + 1)), threads, join_bytes, stream, problem,
         parts);
}

}  // namespace crossd_ops::cuda
