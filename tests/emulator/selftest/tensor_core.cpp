// ldmatrix and mma.sync give the products that plain loops give, in three orders of threads; what the device would not
// do is an error that says where.
#include <cstdint>
#include <cstring>

#include "check.h"

constexpr int kRows = 16, kColumns = 8;

float from_integer(uint32_t bits) { return float(int(bits) - 8); }
int value(int row, int column) { return (row * 7 + column * 3 + row * column) % 17; }

// A (16 x 16) and B (16 x 8) by ldmatrix: A by rows, or by columns and transposed, B by rows and transposed, or by
// columns.
template <bool kByColumns>
__global__ void multiply_halves(float* out) {
  EMU_SHARED(uint4, shared, 48);
  uint16_t (*const a)[16] = reinterpret_cast<uint16_t (*)[16]>(shared);
  uint16_t* const b = reinterpret_cast<uint16_t*>(shared + 32);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) {
    const int row = i / 16, k = i % 16;
    a[kByColumns ? k : row][kByColumns ? row : k] = uint16_t(value(row, k));
  }
  for (int i = lane; i < 128; i += 32) {
    const int k = i / 8, column = i % 8;
    b[kByColumns ? column * 16 + k : k * 8 + column] = uint16_t(value(column, k));
  }
  __syncwarp();
  float sums[4] = {1, 2, 3, 4};
  uint32_t of_a[4], of_b[2];
  // Matrices in the order of the registers of A: rows 0 to 7 and 8 to 15 of the first eight k, then of the next eight.
  const int matrix = lane / 8, row = matrix % 2 * 8, k = matrix / 2 * 8;
  if constexpr (kByColumns) {
    emu::load_matrices<true>(of_a, &a[k + lane % 8][row]);
    emu::load_matrices<false>(of_b, b + lane % 8 * 16 + lane / 8 % 2 * 8);
  } else {
    emu::load_matrices<false>(of_a, &a[row + lane % 8][k]);
    emu::load_matrices<true>(of_b, b + lane % 16 * 8);
  }
  emu::multiply_add<16>(sums, of_a, of_b, from_integer);
  for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * kColumns + lane % 4 * 2 + i % 2] = sums[i];
}

__global__ void multiply_floats(float* out) {
  const int lane = int(threadIdx.x), group = lane / 4, in_group = lane % 4;
  const auto bits = [](int integer) {
    const float element = float(integer - 8);
    uint32_t result;
    std::memcpy(&result, &element, sizeof result);
    return result | 0x1fffu;  // what the tensor cores do not look at
  };
  const uint32_t a[4] = {bits(value(group, in_group)), bits(value(group + 8, in_group)),
                         bits(value(group, in_group + 4)), bits(value(group + 8, in_group + 4))};
  const uint32_t b[2] = {bits(value(group, in_group)), bits(value(group, in_group + 4))};
  float sums[4] = {1, 2, 3, 4};
  emu::multiply_add<8>(sums, a, b, emu::tf32_to_float);
  for (int i = 0; i < 4; ++i) out[(group + i / 2 * 8) * kColumns + in_group * 2 + i % 2] = sums[i];
}

template <typename Kernel>
void test_product(Kernel&& kernel, int depth) {
  float out[kRows * kColumns];
  emu::launch(1, 32, 0, [&] { kernel(out); });
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      int sum = 1 + row / 8 * 2 + column % 2;
      for (int k = 0; k < depth; ++k) sum += (value(row, k) - 8) * (value(column, k) - 8);
      CHECK(out[row * kColumns + column] == float(sum));
    }
  }
}

// One matrix, and two: the addresses of other lanes are not looked at.
__global__ void load_few(uint32_t* out) {
  EMU_SHARED(uint4, rows, 16);
  if (threadIdx.x < 16) rows[threadIdx.x] = {threadIdx.x, 100 + threadIdx.x, 200 + threadIdx.x, 300 + threadIdx.x};
  __syncwarp();
  uint32_t one[1], two[2];
  emu::load_matrices<false>(one, threadIdx.x < 8 ? rows + threadIdx.x : nullptr);
  emu::load_matrices<false>(two, threadIdx.x < 16 ? rows + threadIdx.x : nullptr);
  out[threadIdx.x] = one[0] + 1000 * two[0] + 1000000 * two[1];
}

void test_few_matrices() {
  uint32_t out[32];
  emu::launch(1, 32, 0, [&] { load_few(out); });
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t first = lane / 4 + lane % 4 * 100;
    CHECK(out[lane] == first * 1001 + (first + 8) * 1000000);
  }
}

template <typename Kernel>
void expect_error(const char* text, Kernel&& kernel, int line) {
  std::string message = "no error";
  try {
    emu::launch(1, 32, 512, kernel);
  } catch (const emu::Error& error) {
    message = error.what();
  }
  check(message.find(text) != std::string::npos, (message + ", expected: " + text).c_str(), line);
}

void test_errors() {
  static uint4 elsewhere[32];
  const auto load = [](const void* row) {
    uint32_t registers[4];
    emu::load_matrices<false>(registers, row);
  };
  const auto shared = [] { return static_cast<char*>(emu::dynamic_shared()) + threadIdx.x * 16; };
  expect_error("not in shared memory", [&] { load(elsewhere + threadIdx.x); }, __LINE__);
  expect_error("not in shared memory", [&] { load(shared() + 16); }, __LINE__);
  expect_error("not aligned to 16 bytes", [&] { load(shared() + (threadIdx.x == 3 ? 8 : 0)); }, __LINE__);
  expect_error("tensor_core.cpp", [&] { load(elsewhere + threadIdx.x); }, __LINE__);
  expect_error(
      "not all lanes of its mask reach",
      [&] {
        if (threadIdx.x != 9) load(shared());
      },
      __LINE__);
  expect_error(
      "not all lanes of its mask reach",
      [&] {
        float sums[4] = {};
        const uint32_t a[4] = {}, b[2] = {};
        if (threadIdx.x != 31) emu::multiply_add<16>(sums, a, b, from_integer);
      },
      __LINE__);
}

int main() {
  for (const emu::Order order : kOrders) {
    emu::order = order;
    test_product(multiply_halves<false>, 16);
    test_product(multiply_halves<true>, 16);
    test_product(multiply_floats, 8);
    test_few_matrices();
    test_errors();
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
