"""Predicted times of what a GPU run measures, without a GPU: what every launch asks for, over what a GPU can do.

A launch takes the longest of its bounds, each as if nothing else held it up, and a constant for the launch itself:

    DRAM         the bytes of every array, once
    L2           those bytes, and the weights that several splits of the samples read again
    load-store   wavefronts of shared memory, and the bytes of global memory in lines of 128
    issue        instructions of the warps, four in a cycle for each multiprocessor
    arithmetic   those of one kind, at the rate of its pipe
    tensor       multiply-adds of the tensor cores

What runs is recorded (trace.py): the calls of the run itself, on tensors without memory, operator by operator. Each
operator has a model, the function that tells its launches, and is refused without one (models.py):

    own_models.py     crossd_ops' kernels: their counts. Instructions come from the machine code (machine_code.py), loop
                      by loop, and wavefronts from the emulator; the tables lie beside the tests of the kernels. How
                      often a loop runs and how many blocks there are is the arithmetic of the launchers, repeated in
                      launches.py; of the kernel for any sizes in general_launches.py, where instructions are those of
                      the steps in its innermost loops alone.
    whole_head_models.py, tiles_models.py  the same of the whole head, and of the convolution in tiles
    convolution_models/  the same of shifted columns
    torch_models.py   kernels of torch and of libraries: a roofline of the bytes of their tensors and their
                      multiply-adds, at rates that are assumptions (assumptions.py)
    compositions/     what an operator of crossd_ops calls inside of the library, in torch's words

Left out, so that a prediction is what a kernel cannot beat rather than what it takes: latency (of a chain of dependent
instructions, of the first loads), occupancy, waiting at barriers, blocks of the last wave that leave multiprocessors
idle, conflicts in DRAM and L2, caches that keep what a launch before has written, a clock that falls under load. Not
predicted at all: what the host takes, which is a figure of a host and its software.

Memory is that of tensors, counted as they come and go in the record: peak, and what autograd keeps. Left out is what a
kernel has besides, partial sums and the workspaces of libraries, and what torch's allocator cannot give in one piece.
"""
