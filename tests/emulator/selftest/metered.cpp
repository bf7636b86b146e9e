// Kernels whose requests are known, sound ones and planted faults, for the test of the meter: a shared library with one
// function, run(name, in, out, order). The test finds a line by the mark at its end.
#include <cstring>

#include "common/cuda/device.cuh"

using namespace crossd_ops::cuda;

constexpr unsigned kBlocks = 2, kThreads = 64;  // four warps

__device__ __forceinline__ unsigned place() { return blockIdx.x * kThreads + threadIdx.x; }

__global__ void copy_dense(const float* in, float* out) {
  const float value = in[place()];  // dense read
  out[place()] = value;             // dense store
}
__global__ void copy_vectors(const float* in, float* out) {
  const float4 value = reinterpret_cast<const float4*>(in)[place()];                     // vector read
  reinterpret_cast<float4*>(out)[place()] = float4{value.w, value.z, value.y, value.x};  // vector store
}
struct alignas(16) Pack {
  float elements[4];
};
// The second is loaded before the first is used; the compiler would like to copy element by element.
__global__ void copy_structs(const float* in, float* out) {
  float sum = 0;
  Pack next = reinterpret_cast<const Pack*>(in)[place()];
  for (unsigned round = 0; round < 2; ++round) {
    Pack pack = next;
    if (round == 0) next = reinterpret_cast<const Pack*>(in)[place() + kBlocks * kThreads];  // struct read
    for (unsigned i = 0; i < 4; ++i) sum += pack.elements[i];
  }
  out[place()] = sum;
}
__global__ void copy_scalars(const float* in, float* out) {
  for (unsigned i = 0; i < 4; ++i) {
    const float value = in[place() * 4 + i];  // scalar read
    out[place() * 4 + i] = value;             // scalar store
  }
}
__global__ void store_strided(const float* in, float* out) {
  out[place() * 8] = in[place()];  // strided store
}
__global__ void read_twice(const float* in, float* out) {
  float sum = in[place()];  // first read
  __syncthreads();          // the compiler keeps no value across it
  sum += in[place()];       // second read
  out[place()] = sum;
}
__global__ void read_by_all(const float* in, float* out) { out[place()] = in[threadIdx.x]; }
__global__ void copy_few(const float* in, float* out) {
  const unsigned of_block = 6, own = blockIdx.x * of_block + threadIdx.x;
  if (threadIdx.x < of_block) out[own] = in[own];
}

// Words at a stride: without conflicts, 2-way, 8-way; in static shared memory, unlike the others.
template <unsigned kStride>
__global__ void read_banks(const float*, float* out) {
  EMU_SHARED(float, words, kThreads* kStride);
  words[threadIdx.x] = 1;  // dense banks
  __syncthreads();
  out[place()] = words[threadIdx.x * kStride];  // strided banks
}
// Vectors at a stride: of 16 bytes four wavefronts, or eight where every second one is left out; of 8 bytes half of it.
template <typename Vector, unsigned kStride>
__global__ void read_vector_banks(const float*, float* out) {
  dynamic_shared<Vector>()[threadIdx.x] = Vector{};
  __syncthreads();
  const Vector value = dynamic_shared<Vector>()[threadIdx.x * kStride];  // strided vectors
  out[place()] = value.x;
}
__global__ void broadcast_vector(const float*, float* out) {
  dynamic_shared<float4>()[threadIdx.x] = float4{1, 1, 1, 1};
  __syncthreads();
  const float4 value = dynamic_shared<float4>()[3];  // one for all
  out[place()] = value.x;
}

__global__ void copy_async(const float* in, float* out) {
  copy_vector_async(dynamic_shared<float4>() + threadIdx.x, in + place() * 4);  // asynchronous copy
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  out[place()] = dynamic_shared<float4>()[threadIdx.x].x;
}

// Rows of 16 bytes, eight for each matrix of a tensor core's operand: one after the other, or 64 bytes apart.
template <int kCount, unsigned kStride>
__global__ void load_rows(const float*, float* out) {
  dynamic_shared<float4>()[threadIdx.x] = float4{1, 1, 1, 1};
  __syncthreads();
  uint32_t a[4] = {}, b[2] = {}, loaded[kCount];
  emu::load_matrices<false>(loaded, dynamic_shared<float4>() + threadIdx.x % kLanes * kStride);  // rows of matrices
  float sums[4] = {};
  emu::multiply_add<16>(sums, a, b, [](uint32_t bits) { return float(bits); });
  emu::multiply_add<16>(sums, a, b, [](uint32_t bits) { return float(bits); });
  out[place()] = sums[0] + float(loaded[0]);
}

// Lanes that make different numbers of rounds, that skip every second one, that come from two ways.
__global__ void diverge_in_rounds(const float* in, float* out) {
  float sum = 0;
  for (unsigned round = 0; round < threadIdx.x % 4; ++round) sum += in[round * kBlocks * kThreads + place()];  // rounds
  out[place()] = sum;  // after the rounds
}
__global__ void diverge_in_turns(const float* in, float* out) {
  float sum = 0;
  for (unsigned round = 0; round < 4; ++round)
    if ((threadIdx.x + round) % 2 == 0) sum += in[round * kBlocks * kThreads + place()];  // turns
  out[place()] = sum;
}
__global__ void diverge_in_two_ways(const float* in, float* out) {
  float value;
  if (threadIdx.x % 2 == 0)
    value = in[place()];  // first way
  else
    value = in[place() - 1] + 1;  // second way
  out[place()] = value;           // after both ways
}

using Kernel = void (*)(const float*, float*);
struct Named {
  const char* name;
  Kernel kernel;
};
constexpr Named kKernels[] = {
    {"copy_dense", copy_dense},
    {"copy_vectors", copy_vectors},
    {"copy_structs", copy_structs},
    {"copy_scalars", copy_scalars},
    {"store_strided", store_strided},
    {"read_twice", read_twice},
    {"read_by_all", read_by_all},
    {"copy_few", copy_few},
    {"read_banks<1>", read_banks<1>},
    {"read_banks<2>", read_banks<2>},
    {"read_banks<8>", read_banks<8>},
    {"read_vector_banks<float2, 1>", read_vector_banks<float2, 1>},
    {"read_vector_banks<float2, 2>", read_vector_banks<float2, 2>},
    {"read_vector_banks<float4, 1>", read_vector_banks<float4, 1>},
    {"read_vector_banks<float4, 2>", read_vector_banks<float4, 2>},
    {"broadcast_vector", broadcast_vector},
    {"copy_async", copy_async},
    {"load_rows<1, 1>", load_rows<1, 1>},
    {"load_rows<2, 1>", load_rows<2, 1>},
    {"load_rows<4, 1>", load_rows<4, 1>},
    {"load_rows<4, 4>", load_rows<4, 4>},
    {"diverge_in_rounds", diverge_in_rounds},
    {"diverge_in_turns", diverge_in_turns},
    {"diverge_in_two_ways", diverge_in_two_ways},
};

extern "C" __attribute__((visibility("default"))) void run(const char* name, const float* in, float* out, int order) {
  emu::order = static_cast<emu::Order>(order);
  for (const Named& named : kKernels)
    if (std::strcmp(named.name, name) == 0)
      launch(named.kernel, dim3(kBlocks), dim3(kThreads), 2 * kThreads * sizeof(float4), nullptr, in, out);
}
