// Prints what the launchers ask of the device, a line for each launch: "KERNEL\tTHREADS\tBYTES", the dynamic shared
// memory last. The test compiles it against a copy of the sources whose launch() calls note_launch() in place of the
// emulator, so that no kernel runs and no tensor is needed, whatever the sizes.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "convolution/cuda/columns_launch.cuh"
#include "convolution/cuda/tiles_input_launch.cuh"
#include "convolution/cuda/tiles_kernels_launch.cuh"
#include "convolution/cuda/tiles_launch.cuh"
#include "convolution/shifted_columns/cuda/launch.cuh"
#include "head/cuda/head_launch.cuh"
#include "head/cuda/rotation_launch.cuh"
#include "shift/cuda/launch.cuh"

// Linked with -rdynamic, so that an instantiation can be asked for its name.
void note_launch(const void* kernel, dim3 block, size_t shared_bytes) {
  Dl_info symbol{};
  int status = 1;
  char* name = nullptr;
  if (dladdr(kernel, &symbol) && symbol.dli_sname)
    name = abi::__cxa_demangle(symbol.dli_sname, nullptr, nullptr, &status);
  std::printf("%s\t%zu\t%zu\n", status == 0 ? name : "unknown", block.count(), shared_bytes);
  std::free(name);
}

namespace check {

using namespace crossd_ops;

constexpr Dtype kDtypes[] = {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16};
constexpr int64_t kPairs[] = {1, 4096, 1 << 20};  // tiles of one pair, of several, of as many as fit
constexpr int64_t kSamples[] = {1, 9, 64};

void launch_shift(const ShiftShape& shape, Dtype weight, Dtype other) {
  ForwardProblem forward{};
  forward.shape = shape, forward.weight_dtype = weight, forward.out_dtype = other;
  cuda::launch_forward(forward, nullptr);
  forward.tap_major = true;
  cuda::launch_forward(forward, nullptr);
  BackwardProblem backward{};
  backward.shape = shape, backward.weight_dtype = weight, backward.grad_dtype = other;
  char memory = 0;  // not null: the gradient is wanted
  backward.grad_weight = backward.grad_shift = &memory;
  cuda::launch_backward(backward, nullptr);
}

void launch_all_shifts() {
  for (int size = 1; size <= kMaxKernel; ++size)
    for (const Dtype weight : kDtypes)
      for (const Dtype other : kDtypes)
        for (const int64_t pairs : kPairs)
          for (const int64_t samples : kSamples)
            for (const int slices : {1, size})
              launch_shift({samples, pairs, 1, {size, size, size}, {0, 1, 2}, 0, slices}, weight, other);
}

void launch_all_heads() {
  constexpr int64_t kSides[] = {3, 200};  // a sample in one part, and in several
  for (const Dtype dtype : kDtypes) {
    for (const int64_t side : kSides) {
      const int64_t pixels = side * side;
      const MapStrides layouts[] = {
          {4 * pixels, pixels, side, 1}, {4 * pixels, 1, 4 * side, 4}, {8 * pixels, 2 * pixels, 2 * side, 2}};
      for (const MapStrides& strides : layouts) {
        RotationHeadForward forward{};
        forward.shape = {2, side, side}, forward.map_strides = strides, forward.dtype = dtype;
        cuda::launch_rotation_head(forward, nullptr);
        RotationHeadBackward backward{};
        backward.shape = forward.shape, backward.map_strides = backward.grad_strides = strides, backward.dtype = dtype;
        cuda::launch_rotation_head_backward(backward, nullptr);
      }
    }
  }
}

void launch_all_whole_heads() {
  char memory = 0;  // not null: the gradient is wanted
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16})
    for (const int64_t channels : {3, 64, 512}) {
      HeadForward forward{};
      forward.input = {{2, 9, 8}, channels, nullptr, {72 * channels, 1, 8 * channels, channels}, dtype};
      forward.training = 1;
      cuda::launch_head(forward, nullptr, nullptr);
      HeadBackward backward{};
      backward.input = forward.input, backward.training = backward.need_parameters = 1;
      backward.grad_input = &memory, backward.grad_strides = forward.input.strides;
      cuda::launch_head_backward(backward, nullptr, nullptr);
      backward.grad_input = nullptr;
      cuda::launch_head_backward(backward, nullptr, nullptr);
    }
}

void launch_all_columns() {
  struct Layout {
    int64_t channels, channel, pixel;
  };
  constexpr Layout kLayouts[] = {{64, 64, 1}, {64, 1, 64}, {3, 1, 3}};  // channels-last in vectors, or of few channels
  for (const Dtype dtype : kDtypes)
    for (const auto& [channels, channel, pixel] : kLayouts) {
      ColumnsProblem problem{2, channels};
      problem.image = problem.result = {1, 8, 8}, problem.kernel = problem.stride = problem.dilation = {1, 1, 1};
      problem.image_sample = 64 * channels, problem.image_channel = channel;
      problem.image_pixel = {64 * pixel, 8 * pixel, pixel}, problem.row = 64, problem.dtype = dtype;
      cuda::launch_image_to_columns(problem, nullptr, nullptr, nullptr);
      cuda::launch_columns_to_image(problem, nullptr, nullptr, nullptr);
    }
}

void launch_all_tiles() {
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float16, Dtype::float32})
    for (const int64_t samples : {1, 512}) {  // in small tiles, and in large ones
      TilesProblem problem{samples, 1, 8, 8};
      problem.image = problem.result = {8, 16}, problem.kernel = problem.stride = problem.dilation = {1, 1};
      problem.dtype = dtype;
      cuda::launch_tiles(problem, nullptr);
      TilesInputProblem of_input{samples, 1, 8, 8};
      of_input.image = of_input.result = {8, 16}, of_input.kernel = of_input.stride = of_input.dilation = {1, 1};
      of_input.dtype = dtype;
      cuda::launch_tiles_input_gradient(of_input, nullptr);
    }
}

void launch_all_tiles_kernels() {
  alignas(16) char memory = 0;  // not null: for sums of pixels that blocks share
  for (const Dtype dtype : {Dtype::bfloat16, Dtype::float16, Dtype::float32})
    for (const int64_t samples : {1, 512})  // in narrow tiles that share pixels, and in wide ones
      for (const int64_t side : {16, 128}) {  // in whole steps, and in halved ones
        TilesKernelsProblem problem{samples, 1, 64, 8};
        problem.image = problem.result = {side, side}, problem.kernel = {3, 3};
        problem.stride = problem.dilation = {1, 1};
        problem.partial = plan_of_kernels_gradient(problem).splits > 1 ? &memory : nullptr;
        problem.dtype = dtype;
        cuda::launch_tiles_kernels_gradient(problem, nullptr);
      }
}

void launch_all_shifted_columns() {
  alignas(16) char memory = 0;  // not null: the gradient is wanted
  for (const Dtype dtype : kDtypes)
    for (const int64_t channels : {1, 2, 16})  // of a thread one, two or four
      for (const int64_t size : {3, 5, 7})
        for (const int sliced : {-1, 0}) {
          ShiftedColumnsProblem problem{1, channels, 1};
          problem.weight = problem.kernel = {size, size, size};
          if (sliced == 0) problem.kernel[0] = 1;
          problem.image = problem.result = problem.stride = problem.dilation = {1, 1, 1};
          problem.sliced = sliced, problem.rows = 1, problem.image_sample = channels;
          problem.image_pixel = {channels, channels, channels};
          problem.dtype = dtype, problem.shift_dtype = accumulate_dtype(dtype);
          cuda::launch_image_to_shifted_columns(problem, nullptr, nullptr, nullptr, nullptr);
          cuda::launch_shifted_columns_gradient(problem, nullptr, nullptr, nullptr, &memory, &memory, nullptr);
          cuda::launch_seen_to_image(problem, nullptr, nullptr, nullptr);
        }
}

}  // namespace check

int main() {
  check::launch_all_shifts();
  check::launch_all_heads();
  check::launch_all_whole_heads();
  check::launch_all_columns();
  check::launch_all_tiles();
  check::launch_all_tiles_kernels();
  check::launch_all_shifted_columns();
}
