"""What the prediction assumes and nobody has counted: every figure with where it comes from.

Counts are elsewhere: bytes and instructions of crossd_ops' kernels in tests/kernels/*.json, sizes of torch's operators
in what it dispatches. The figures of GPUs, with their sources, are in gpus.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    value: float
    about: str
    source: str


LAUNCH_SECONDS = Assumption(2.5e-6, "seconds of the shortest kernel, added to every launch", "a usual figure")
PRODUCT_RATE = Assumption(
    0.75,
    "of a GPU's tensor or multiply-add rate that products and convolutions of libraries reach",
    "600 of 790 TFLOP/s in bfloat16; for layers of this size a guess",
)
GROUPED_RATE = Assumption(
    0.05,
    "of PRODUCT_RATE that a convolution of several groups reaches, in every direction",
    "csrc/convolution/gpu_costs.h, by which the library chooses: reports of a few hundredths are many (pytorch issues "
    "70954, 34977, 95604); the best known is 0.75, forward, two groups of 256 channels, float32 (issue 73764)",
)
TF32_RATE = Assumption(0.5, "of the bfloat16 rate, where float32 convolutions run as TF32", "data sheets")
WARP_PRODUCTS_RATE = Assumption(
    0.6,
    "of the tensor cores' rate that mma.sync reaches on GPUs with instructions for several warps together",
    "a usual figure of Hopper's; of Blackwell's a guess",
)
LAYOUT_COPIES = Assumption(
    1,
    "copy of each activation to channels-last, and back, where a library convolves contiguous ones on tensor cores",
    "names of cuDNN's kernels in profiles, nchwToNhwcKernel and its like",
)
CHUNK_ELEMENTS = Assumption(65536, "elements of a tensor that a block of a multi-tensor kernel takes", "torch's source")
CHUNKS_OF_LAUNCH = Assumption(320, "such chunks of a launch", "torch's source")
TENSORS_OF_LAUNCH = Assumption(36, "such tensors of a launch, of the fused AdamW", "torch's source")

ALL = {name: value for name, value in list(globals().items()) if isinstance(value, Assumption)}
