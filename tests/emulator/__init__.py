"""The CUDA kernels of crossd_ops on a CPU: an emulator (cuda_on_cpu/), and what the tests build with it."""
