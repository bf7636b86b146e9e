"""The convolution of each sample with kernels that are given."""
