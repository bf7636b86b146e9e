// Instructions of the tensor cores, which a warp executes together: ldmatrix and mma.sync. The last lane to arrive does
// the work for all, as the others stand still.
#pragma once
#include <cstring>

#include "fragments.h"
#include "warp.h"

namespace emu {
namespace detail {

EMU_PART inline bool in_shared_memory(const void* address, size_t bytes) {
  const Machine& m = machine();
  const char* const at = static_cast<const char*>(address);
  const auto holds = [&](const void* array, size_t size) EMU_PART {
    const char* const begin = static_cast<const char*>(array);
    return at >= begin && at + bytes <= begin + size;
  };
  if (holds(m.dynamic_shared.get(), m.dynamic_shared_bytes)) return true;
  for (const auto& [array, size] : m.poisoned_arrays)
    if (holds(array, size)) return true;
  return false;
}

EMU_OWN inline void check_matrix_row(const void* row, Site site) {
  Fiber& fiber = *machine().current;
  fiber.site = site;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    throw Error(where(fiber) + ": ldmatrix of a row that is not aligned to 16 bytes");
  if (!in_shared_memory(row, 16)) throw Error(where(fiber) + ": ldmatrix of a row that is not in shared memory");
}

// What all lanes bring, each on its own stack: `work(records)` runs once, when all 32 have come.
template <typename Record, typename Work>
EMU_PART inline void as_one_warp(Record& record, Site site, Work&& work) {
  const auto nothing = [](const WarpOperation&, unsigned) EMU_PART { return 0; };
  warp_operation(0xffffffffu, to_bits(&record), site, nothing, [&](const WarpOperation& operation) EMU_PART {
    Record* records[kLanes];
    for (unsigned lane = 0; lane < kLanes; ++lane) records[lane] = from_bits<Record*>(operation.value[lane]);
    work(records);
  });
}

template <int kCount>
struct MatrixRecord {
  uint4 row;
  uint32_t* registers;
};
struct ProductRecord {
  float* sums;
  const uint32_t *a, *b;
};

EMU_PART inline uint32_t element_of(const uint32_t* registers, int element, bool half) {
  return half ? registers[element / 2] >> element % 2 * 16 & 0xffffu : registers[element];
}

// What a function without a state makes of any 16 bits: the kernels' own takes its time under sanitizers. No local
// static, whose guard would order threads.
template <typename ToFloat>
inline const float* of_halves = nullptr;
template <typename ToFloat>
const float* table_of_halves(ToFloat to_float) {
  float* const table = new float[0x10000];
  for (uint32_t bits = 0; bits < 0x10000; ++bits) table[bits] = to_float(bits);
  return table;
}

template <int kDepth, typename AsFloat>
EMU_PART inline void multiply_fragments(ProductRecord* const* lanes, AsFloat as_float) {
  constexpr bool kHalf = kDepth == 16;
  constexpr int kElements = kHalf ? 8 : 4;  // of A in a lane; of B half as many
  typedef float Row __attribute__((vector_size(8 * sizeof(float))));
  float a[16][kDepth];
  Row b[kDepth], sums[16];
  for (int lane = 0; lane < int(kLanes); ++lane) {
    for (int i = 0; i < kElements; ++i) {
      const fragment::Place at = fragment::of_a<kDepth>(lane, i);
      a[at.row][at.column] = as_float(element_of(lanes[lane]->a, i, kHalf));
    }
    for (int i = 0; i < kElements / 2; ++i) {
      const fragment::Place at = fragment::of_b<kDepth>(lane, i);
      b[at.row][at.column] = as_float(element_of(lanes[lane]->b, i, kHalf));
    }
    for (int i = 0; i < 4; ++i) {
      const fragment::Place at = fragment::of_c(lane, i);
      sums[at.row][at.column] = lanes[lane]->sums[i];
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < kDepth; ++k) sums[row] += a[row][k] * b[k];
  for (int lane = 0; lane < int(kLanes); ++lane) {
    for (int i = 0; i < 4; ++i) {
      const fragment::Place at = fragment::of_c(lane, i);
      lanes[lane]->sums[i] = sums[at.row][at.column];
    }
  }
  if (observer) observer->tensor_instruction();
}

}  // namespace detail

// ldmatrix.sync.aligned.m8n8.x{kCount}[.trans].shared.b16: lane 8 j + i brings the address of row i of matrix j.
template <bool kTransposed, int kCount>
__forceinline__ void load_matrices(uint32_t (&registers)[kCount], const void* row, EMU_CALL_SITE) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4);
  detail::MatrixRecord<kCount> record{{}, registers};
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  if (thread % detail::kLanes < 8 * kCount) {  // the addresses of the others are not looked at
    detail::check_matrix_row(row, {call_file, call_line});
    record.row = *static_cast<const uint4*>(row);
  }
  detail::as_one_warp(record, {call_file, call_line}, [](detail::MatrixRecord<kCount>* const* lanes) EMU_PART {
    for (int lane = 0; lane < int(detail::kLanes); ++lane) {
      for (int i = 0; i < 2 * kCount; ++i) {
        const fragment::Place at = fragment::of_matrices<kTransposed>(lane, i);
        uint16_t element;
        std::memcpy(&element, reinterpret_cast<const char*>(&lanes[at.row]->row) + 2 * at.column, sizeof element);
        uint32_t& target = lanes[lane]->registers[i / 2];
        target = i % 2 == 0 ? element : target | uint32_t(element) << 16;
      }
    }
  });
}

// mma.sync.aligned.m16n8k{kDepth}.row.col.f32...f32: sums += a b, in float32, in the order of k. The device may add in
// another order. `to_float` makes an element of its bits.
template <int kDepth, typename ToFloat>
__forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ToFloat to_float,
                                  EMU_CALL_SITE) {
  detail::ProductRecord record{sums, a, b};
  detail::as_one_warp(record, {call_file, call_line}, [&](detail::ProductRecord* const* lanes) EMU_PART {
    if constexpr (kDepth == 16 && std::is_empty_v<ToFloat>) {
      const float*& table = detail::of_halves<ToFloat>;
      if (!table) table = detail::table_of_halves(to_float);
      detail::multiply_fragments<kDepth>(lanes, [&](uint32_t bits) EMU_PART { return table[bits]; });
    } else {
      detail::multiply_fragments<kDepth>(lanes, to_float);
    }
  });
}

// The tensor cores take the upper 19 bits of a float32.
struct Tf32ToFloat {
  EMU_PART float operator()(uint32_t bits) const {
    bits &= 0xffffe000u;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};
constexpr Tf32ToFloat tf32_to_float;

}  // namespace emu
