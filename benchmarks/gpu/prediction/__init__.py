"""Predicted times of the CUDA kernels, without a GPU: counts of what a launch asks for, over what a GPU can do.

A launch takes the longest of its bounds, each as if nothing else held it up, and a constant for the launch itself:

    DRAM         the bytes of every array, once
    L2           those bytes, and the weights that several splits of the samples read again
    load-store   wavefronts of shared memory, and the bytes of global memory in lines of 128
    issue        instructions of the warps, four in a cycle for each multiprocessor
    arithmetic   those of one kind, at the rate of its pipe
    tensor       multiply-adds of the tensor cores

Instructions are counted in the machine code (machine_code.py), loop by loop, and wavefronts in the emulator; the tables
lie beside the tests of the kernels. How often a loop runs and how many blocks there are is the arithmetic of the
launchers, repeated in launches.py.

Left out, so that a prediction is what a kernel cannot beat rather than what it takes: latency (of a chain of dependent
instructions, of the first loads), occupancy, waiting at barriers, blocks of the last wave that leave multiprocessors
idle, conflicts in DRAM and L2, caches that keep what a launch before has written, a clock that falls under load. Not
predicted at all: kernels of torch and cuDNN, so `predict_shift`, `rotation_shift`, the convolutions and training steps;
the kernels for sizes other than 3, 5 and 7.
"""
