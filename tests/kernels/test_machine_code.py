"""Instructions by loop: of small kernels whose loops are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_kernel_instructions import machine_code
from test_static_kernels import ARCHITECTURES

from benchmarks.gpu.prediction.machine_code import ONE_WARP, instruction_class, loops_of, steps_of

COUNTED = """
__global__ void counted(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[64];
  float sum = 0;
  for (int row = 0; row < rows; ++row) {
    tile[threadIdx.x] = in[row * 64 + threadIdx.x];
    __syncthreads();
#pragma unroll 1
    for (int column = 0; column < columns; ++column) {
      const float value = tile[column];
      sum = (((sum * value + 1.5f) * value + 2.5f) * value + 3.5f) * value + 4.5f;
    }
    __syncthreads();
    if (sum > 1e3f) sum = sum * sum + in[row];
  }
  out[threadIdx.x] = sum;
  if (threadIdx.x == 0) out[64] = sqrtf(sum) * in[0];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_instructions_of_a_kernel_that_is_known(architecture: str, tmp_path: Path) -> None:
    source = tmp_path / "counted.cu"
    source.write_text(COUNTED)
    (code,) = machine_code(str(source), architecture).values()
    found = {loop.name: loop.counts for loop in loops_of(code)}
    assert list(found) == ["", "counted.row", "counted.row/counted.column", ONE_WARP]
    row, column = found["counted.row"], found["counted.row/counted.column"]
    assert (column["shared"], column["float32"], column.get("global", 0)) == (1, 4, 0)
    assert (row["shared"], row["global"]) == (1, 2)  # what lies in the loop within is not its own
    assert (found[""]["global"], found[ONE_WARP]["global"]) == (1, 2)
    assert sum(column.values()) < 12


UNROLLED = """
__global__ void unrolled(const float* in, float* out, int columns) {
  float sum = 0;
#pragma unroll 4
  for (int column = threadIdx.x; column < columns; ++column) sum = sum * 0.5f + in[column];
  out[threadIdx.x] = sum;
}
"""
CHUNKED = """
__global__ void chunked(const float* in, float* out, int samples) {
  int chunk = 0;
  const auto work = [&](int count) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= count) break;
      float value = in[chunk + i];
#pragma unroll
      for (int step = 0; step < 12; ++step) value = value * value + 0.5f;
      out[chunk + i] = value;
    }
  };
  for (; chunk + 4 <= samples; chunk += 4) work(4);
  if (chunk < samples) work(samples - chunk);
}
"""

HALVES = """
__global__ void halves(const float* in, float* out) {
  float sum = 0;
#pragma unroll 2
  for (int column = 0; column < 64; ++column) sum = sum * sum + in[column * 32 + threadIdx.x];
  out[threadIdx.x] = sum;
}
"""


@pytest.mark.parametrize(
    ("text", "name", "iterations", "accesses", "outside"),
    [
        (UNROLLED, "unrolled.column", 4, 4, 1),
        (HALVES, "halves.column", 2, 2, 1),
        (CHUNKED, "chunked.chunk", 1, 8, 0),
    ],
    ids=["unrolled", "halves", "chunked"],
)
def test_the_rest_of_a_loop_does_not_count(
    text: str, name: str, iterations: int, accesses: int, outside: int, tmp_path: Path
) -> None:
    """Nor do the loop that the compiler makes for it, and iterations that it takes out."""
    source = tmp_path / "planted.cu"
    source.write_text(text)
    (code,) = machine_code(str(source), "sm_90").values()
    whole, *loops = loops_of(code)
    assert [(loop.name, loop.iterations, loop.counts["global"]) for loop in loops] == [(name, iterations, accesses)]
    assert whole.counts.get("global", 0) == outside


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("FFMA.FTZ", "float32"),
        ("IMAD.WIDE.U32", "float32"),
        ("DFMA", "float64"),
        ("LDS.128", "shared"),
        ("LDGSTS.E.BYPASS.128", "global"),
        ("HMMA.16816.F32.BF16", "tensor"),
        ("F2FP.BF16.F32.PACK_AB", "integer"),
        ("MUFU.EX2", "special"),
        ("UIADD3", "uniform"),
        ("BAR.SYNC", "other"),
    ],
)
def test_class_of_an_instruction(opcode: str, expected: str) -> None:
    assert instruction_class(opcode) == expected


STEPS = """
__global__ void steps(const float* in, float* out, int taps) {
  __shared__ float values[256];
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  float sum = 0;
#pragma unroll 4
  for (int tap = 0; tap < taps; ++tap) sum += values[tap] * values[threadIdx.x + tap];
  out[threadIdx.x] = sum;
}
"""


def test_steps_of_loops_that_do_four_at_a_time(tmp_path: Path) -> None:
    source = tmp_path / "steps.cu"
    source.write_text(STEPS)
    (code,) = machine_code(str(source), "sm_90").values()
    (found,) = steps_of(code, ["steps.tap"], [2]).items()
    assert found[0] == "2" and 3 < found[1] < 8  # two loads, a multiply-add, a part of the loop's own
    assert steps_of(code, ["steps.tap"], [3]) == steps_of(code, ["steps.other"], [2]) == {}
