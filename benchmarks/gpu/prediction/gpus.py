"""What named GPUs can do, from measurements and data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.prediction.assumptions import TF32_RATE, WARP_PRODUCTS_RATE

# Results of a multiprocessor in a cycle, by class of instruction; integers go by additions and logic. Assumptions, to
# be held against the table of native arithmetic instructions in the CUDA C++ Programming Guide before one decides.
_AMPERE = {"float32": 64, "float64": 32, "integer": 64, "special": 16, "shuffle": 32}
_HOPPER = {"float32": 128, "float64": 64, "integer": 64, "special": 16, "shuffle": 32}

SCHEDULERS = 4  # of a multiprocessor; each issues an instruction of a warp in a cycle
LANES = 32
WAVEFRONT_BYTES = 128  # of shared memory, or of the L1 cache, in a cycle


@dataclass(frozen=True)
class GPU:
    name: str
    architecture: str  # whose machine code runs there
    multiprocessors: int
    hertz: float
    dram_bytes_per_second: float
    l2_bytes_per_cycle: float
    tensor_flops_per_second: float  # bfloat16, dense
    lanes_per_cycle: dict[str, int]
    source: str

    @property
    def warp_products_rate(self) -> float:
        """Of the tensor cores' rate, what the instructions of a warp reach."""
        return 1.0 if self.architecture == "sm_80" else WARP_PRODUCTS_RATE.value

    def multiply_adds_per_second(self, unit: str) -> float:
        """At most: of "bfloat16" (float16 too) and "tf32" the tensor cores', of "float32" and "float64" the lanes'."""
        if unit == "bfloat16":
            return self.tensor_flops_per_second / 2
        if unit == "tf32":
            return self.tensor_flops_per_second / 2 * TF32_RATE.value
        return self.multiprocessors * self.hertz * self.lanes_per_cycle[unit]


# Of the L2 cache, of every GPU: an assumption too, which NVIDIA's description of A100 is said to give for that one.
_L2_BYTES_PER_CYCLE = 5120

GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU(
            "H200",
            "sm_90",
            multiprocessors=132,
            hertz=1.83e9,
            dram_bytes_per_second=4.3e12,
            l2_bytes_per_cycle=_L2_BYTES_PER_CYCLE,
            tensor_flops_per_second=790e12,
            lanes_per_cycle=_HOPPER,
            source="bandwidth of a copy, clock and bfloat16 products measured elsewhere on an H200 SXM",
        ),
        # 80 GB SXM: 2039 GB/s, 312 TFLOPS of bfloat16; 108 multiprocessors at 1410 MHz.
        GPU(
            "A100",
            "sm_80",
            multiprocessors=108,
            hertz=1.41e9,
            dram_bytes_per_second=2.039e12,
            l2_bytes_per_cycle=_L2_BYTES_PER_CYCLE,
            tensor_flops_per_second=312e12,
            lanes_per_cycle=_AMPERE,
            source="data sheet of the 80 GB SXM board, as others quote it",
        ),
        # One GPU: 8 TB/s, 2.25 PFLOPS of dense bfloat16, 75 TFLOPS of float32, which are 148 multiprocessors of 128
        # lanes at 1.98 GHz.
        GPU(
            "B200",
            "sm_100",
            multiprocessors=148,
            hertz=1.98e9,
            dram_bytes_per_second=8e12,
            l2_bytes_per_cycle=_L2_BYTES_PER_CYCLE,
            tensor_flops_per_second=2250e12,
            lanes_per_cycle=_HOPPER,
            source="data sheet of HGX B200, as others quote it",
        ),
    )
}


def gpu_named(name: str | None) -> GPU | None:
    """By what the driver calls it, "NVIDIA H200"; None for one whose figures are not here."""
    return next((gpu for gpu in GPUS.values() if name and gpu.name in name), None)
