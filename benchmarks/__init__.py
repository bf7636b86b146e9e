"""`python -m benchmarks`: the operator against the torch.fft expansion, and a training run on real images with both."""
